"""Videos with what was found drawn onto them: a score bar, and the class where there is an event.

H.264 in mp4, every frame of the source at its own time. Audio is copied where mp4 takes its codec and encoded
as AAC where not.

Legend of shape suffixes: H height, W width; N snippets; the axis of 3 is RGB.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from PIL import Image, ImageDraw, ImageFont

from vadclip.detect.find import FoundEvent
from vadclip.errors import VideoError
from vadclip.files import atomic_path
from vadclip.manifest import SNIPPET_FRAMES
from vadclip.video.container import check_size, open_video
from vadclip.video.frame_index import FrameIndex, scan

_CALM, _ALARM, _GROUND, _MARK = (86, 160, 211), (213, 94, 0), (20, 20, 20), (255, 255, 255)


def render(
    source: str | Path,
    target: Path,
    score_N: npt.NDArray[np.float32],
    threshold: float,
    events: Sequence[FoundEvent],
    beat: Callable[[], None],
) -> int:
    """Write `target` from the video `source` and return its number of frames.

    A frame shows its snippet's score; frames behind the last whole snippet show the last one's. `beat` is
    called after every frame. Raises VideoError if the source cannot be read to its end.
    """
    index = scan(str(source))
    with atomic_path(target) as temporary:
        try:
            return _write(str(source), temporary, index, score_N, threshold, events, beat)
        except av.FFmpegError as error:
            raise VideoError(f"it cannot be rendered ({error.strerror})") from None


def _write(
    source: str,
    target: Path,
    index: FrameIndex,
    score_N: npt.NDArray[np.float32],
    threshold: float,
    events: Sequence[FoundEvent],
    beat: Callable[[], None],
) -> int:
    with open_video(source) as (given, pictures), av.open(str(target), "w", format="mp4") as made:
        video = _add_video(made, pictures, index)  # all streams before the first packet
        sound = _Sound(given, made)
        number, written, last_pts = 0, 0, None
        for packet in _packets(given, [pictures, *([sound.stream] if sound.stream else [])]):
            if packet.stream is not pictures:
                sound.take(packet)
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:  # damaged: a player passes over it too
                continue
            for frame in frames:
                assert isinstance(frame, VideoFrame)
                check_size(frame.width, frame.height)
                rgb_HW3 = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                picture_HW3 = index.orientation.apply(rgb_HW3)
                if index.ordered and frame.pts is not None:
                    number = int(np.searchsorted(index.pts, frame.pts))
                here = [event for event in events if event.start_frame <= number < event.end_frame]
                score = float(score_N[min(number // SNIPPET_FRAMES, len(score_N) - 1)])
                drawn = draw(_fitted(picture_HW3, video.height, video.width), score, threshold, here)
                shown = VideoFrame.from_ndarray(drawn, format="rgb24")
                # Two frames never share a time, which some sources do and mp4 does not allow.
                pts = frame.pts if frame.pts is not None else number
                pts = pts if last_pts is None else max(pts, last_pts + 1)
                shown.pts, shown.time_base, last_pts = pts, video.codec_context.time_base, pts
                made.mux(video.encode(shown))
                number, written = number + 1, written + 1
                beat()
        made.mux(video.encode())
        sound.finish()
    return written


def _packets(given: Any, streams: Sequence[Any]) -> Iterator[Any]:
    """Yield packets up to the file's end or to where it is cut off."""
    packets = given.demux(streams)
    while True:
        try:
            packet = next(packets, None)
        except av.error.InvalidDataError:
            return
        if packet is None:
            return
        yield packet


def _add_video(made: Any, pictures: Any, index: FrameIndex) -> Any:
    width, height = index.shown_size
    rate = pictures.average_rate or pictures.guessed_rate or Fraction(25)
    # x264's mbtree gives other bytes each time, for equal pictures and in one thread.
    options = {"preset": "veryfast", "crf": "23", "x264-params": "mbtree=0"}
    video = made.add_stream("libx264", rate=rate, options=options)
    video.width, video.height = width + width % 2, height + height % 2  # 4:2:0 halves both
    video.pix_fmt = "yuv420p"
    video.codec_context.time_base = video.time_base = pictures.time_base or 1 / rate
    return video


class _Sound:
    """The source's audio on its way into the mp4: its packets as they are, or decoded and encoded as AAC."""

    def __init__(self, given: Any, made: Any) -> None:
        self.stream = next(iter(given.streams.audio), None)
        self._made, self._copied = made, False
        if self.stream is None:
            return
        self._copied = self.stream.codec_context.name in made.supported_codecs
        if self._copied:
            self._out = made.add_stream_from_template(self.stream)
        else:
            rate = self.stream.codec_context.sample_rate
            self._out = made.add_stream("aac", rate=rate)
            self._out.codec_context.layout = self.stream.codec_context.layout
            self._resampler = av.AudioResampler("fltp", self._out.codec_context.layout, rate)

    def take(self, packet: Any) -> None:
        """Pass one packet on."""
        if self._copied:
            if packet.dts is not None:
                packet.stream = self._out
                self._made.mux(packet)
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return
        for frame in frames:
            self._encode(self._resampler.resample(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self.stream is not None and not self._copied:
            self._encode(self._resampler.resample(None))
            self._made.mux(self._out.encode(None))

    def _encode(self, frames: Iterable[Any]) -> None:
        for frame in frames:
            self._made.mux(self._out.encode(frame))


def _fitted(picture_HW3: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Bring a picture to the size of the first one: an odd side gains a row, another size is scaled."""
    H, W = picture_HW3.shape[:2]
    if (height, width) == (H, W):
        return picture_HW3
    if (height, width) == (H + H % 2, W + W % 2):
        return np.pad(picture_HW3, ((0, height - H), (0, width - W), (0, 0)), mode="edge")
    return np.asarray(Image.fromarray(picture_HW3).resize((width, height)))


def draw(
    picture_HW3: npt.NDArray[np.uint8], score: float, threshold: float, events: Sequence[FoundEvent]
) -> npt.NDArray[np.uint8]:
    """Return the picture with a bar of `score` along its foot, and the class of each event above the bar."""
    image = Image.fromarray(picture_HW3)
    canvas = ImageDraw.Draw(image)
    width, height = image.size
    bar = max(6, height // 24)
    top = height - bar
    colour = _ALARM if score > threshold else _CALM
    canvas.rectangle((0, top, width, height), fill=_GROUND)
    canvas.rectangle((0, top, round(score * (width - 1)), height), fill=colour)
    if 0 <= threshold <= 1:
        canvas.line([(round(threshold * (width - 1)), top), (round(threshold * (width - 1)), height)], _MARK)
    font = ImageFont.load_default(max(10, bar))
    for event in events:
        text = event.label if event.probability is None else f"{event.label} {event.probability:.2f}"
        box = canvas.textbbox((0, 0), text, font=font)
        top -= round(box[3]) + 6
        canvas.rectangle((0, top, box[2] + 8, top + box[3] + 6), fill=_ALARM)
        canvas.text((4, top + 2), text, fill=_MARK, font=font)
    return np.asarray(image)
