"""Many different tiny videos made cheaply, some of them broken, and actors that are killed as they work."""

import io
import os
import random
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import psutil
from video_helpers import numbered_frame, truncate, write_audio

from vadclip.config import ClipParams, ExecutionParams
from vadclip.extract.encode import Extracted
from vadclip.extract.units import Unit, split_unit
from vadclip.extract.worker import ExtractWorker
from vadclip.features.provenance import Provenance
from vadclip.pool.pool import Pool
from vadclip.pool.work import Beat, Outcome

GROUPS, GROUP_FRAMES = 40, 16
_TICK = Fraction(1, 25)


class Clips:
    """Videos put together from 40 groups of 16 frames that are encoded once: each is different, in its rows
    too, and costs two ms."""

    def __init__(self) -> None:
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.gop_size, stream.max_b_frames, stream.thread_count = GROUP_FRAMES, 0, 1
            stream.options = {"preset": "ultrafast", "x264-params": "scenecut=0"}
            for number in range(GROUPS * GROUP_FRAMES):
                frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
                frame.pts, frame.time_base = number, _TICK
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        file.seek(0)
        self._source = av.open(file)
        self._stream = self._source.streams.video[0]
        packets = [packet for packet in self._source.demux(self._stream) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [
            number % GROUP_FRAMES == 0 for number in range(GROUPS * GROUP_FRAMES)
        ]
        self._packets = [bytes(packet) for packet in packets]

    def write(self, path: Path, groups: Sequence[int], tail: int) -> Path:
        """Write the groups of these numbers, then `tail` more frames of the last one."""
        numbers = [group * GROUP_FRAMES + at for group in groups for at in range(GROUP_FRAMES)]
        numbers += [groups[-1] * GROUP_FRAMES + at for at in range(tail)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(self._stream)
            for when, number in enumerate(numbers):
                packet = av.Packet(self._packets[number])
                packet.stream, packet.time_base, packet.duration = stream, _TICK, 1
                packet.pts = packet.dts = when
                packet.is_keyframe = number % GROUP_FRAMES == 0
                container.mux(packet)
        return path


def _png(path: Path, clips: Clips, number: int) -> None:
    image = av.CodecContext.create("png", "w")
    image.width, image.height, image.pix_fmt, image.time_base = 96, 64, "rgb24", _TICK
    path.write_bytes(bytes(image.encode(av.VideoFrame.from_ndarray(numbered_frame(number), "rgb24"))[0]))


def _sound(path: Path, clips: Clips, number: int) -> None:
    write_audio(path)
    # A box that readers skip: the files differ.
    path.write_bytes(path.read_bytes() + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))


def _lying_header(path: Path, clips: Clips, number: int) -> None:
    """The box of the index promises 2 GB and the file ends long before."""
    data = bytearray(clips.write(path, [number % GROUPS], number % 7).read_bytes())
    at = data.index(b"moov")
    data[at - 4 : at] = (2**31 - 1 - number).to_bytes(4, "big")
    path.write_bytes(data[: at + 60])


UNREADABLE = "FFmpeg cannot read it as a video (invalid data found when processing input)"
NO_TRACK = "there is no video track in it"
BROKEN: dict[str, tuple[Callable[[Path, Clips, int], object], str]] = {
    "zero bytes": (lambda path, clips, number: path.touch(), "the file is empty"),
    "text": (lambda path, clips, number: path.write_text(f"{number}: no video\n" * 99), UNREADABLE),
    "noise": (
        lambda path, clips, number: path.write_bytes(random.Random(number).randbytes(5000)),
        UNREADABLE,
    ),
    "cut off": (
        lambda path, clips, number: truncate(clips.write(path, [number % GROUPS] * 2, number % 9), 0.7),
        UNREADABLE,
    ),
    "lying header": (_lying_header, NO_TRACK),
    "sound": (_sound, NO_TRACK),
    "picture": (
        _png,
        "FFmpeg cannot read it as a video (its format is none of those that are allowed): if it is one, "
        "ffmpeg -i FILE -map 0:v:0 -c copy FILE.nut makes a file that can be read",
    ),
}
"""Kinds that ingest finds."""

CHANGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (Path.unlink, "there is no such file"),
    "emptied": (lambda path: path.write_bytes(b""), "the file is empty"),
    "overwritten": (lambda path: path.write_bytes(b"no video\n" * 99), UNREADABLE),
}
"""Kinds that were good when ingest looked: actors find them."""


class MarkedWorker(ExtractWorker):
    """The real worker; from its first unit on it can be killed, its process known by a file in `marks`."""

    def __init__(self, marks: Path, *worker: object) -> None:
        super().__init__(*worker)
        self._mark: Path | None = marks / str(os.getpid())

    def run(self, unit: Unit, beat: Beat) -> Extracted:
        if self._mark is not None:
            self._mark.touch()
            self._mark = None
        return super().run(unit, beat)


@dataclass
class KilledActors:
    """Runs units in a pool whose actors get SIGKILL at random moments, from the first result to the last.

    After every `between` results (a random number of these bounds) one actor dies up to 50 ms later, whatever
    it is doing then; only an actor that is still starting is spared, since three such deaths on end mean that
    workers do not start.
    """

    clip: ClipParams
    provenance: Provenance
    execution: ExecutionParams
    marks: Path
    seed: int
    between: tuple[int, int]
    kills: int = 0
    split: int = 0
    """Units whose actor died and whose videos were then tried alone."""
    rss_mb: list[float] = field(default_factory=list)
    """Of this process, the driver, over time."""

    def __call__(
        self, units: Sequence[Unit], **callbacks: object
    ) -> Generator[Outcome[Unit, Extracted], None, None]:
        self.marks.mkdir()
        chance = random.Random(self.seed)
        worker = partial(MarkedWorker, self.marks, self.clip, self.execution, self.provenance)
        with Pool(worker, self.execution) as pool:
            left = chance.randint(*self.between)
            with closing(pool.run(units, split=self._split, **callbacks)) as outcomes:
                for number, outcome in enumerate(outcomes):
                    if number % 20 == 0:
                        self.rss_mb.append(psutil.Process().memory_info().rss / 1e6)
                    left -= 1
                    alive = sorted(self.marks.iterdir())
                    if left <= 0 and alive:
                        left = chance.randint(*self.between)
                        mark = alive[chance.randrange(len(alive))]
                        mark.unlink()
                        threading.Timer(chance.uniform(0, 0.05), self._kill, [int(mark.name)]).start()
                    yield outcome

    def _split(self, unit: Unit) -> Sequence[Unit]:
        parts = split_unit(unit)
        self.split += len(parts) > 1
        return parts

    def _kill(self, pid: int) -> None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.name().startswith("ray::"):  # never another process that got the number
                process.send_signal(signal.SIGKILL)
                self.kills += 1
