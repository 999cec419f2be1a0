"""The worker that runs units with CLIP and leaves their rows in files, on whatever machine it was started."""

import errno
import socket
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vadclip.config import ClipParams, ExecutionParams
from vadclip.errors import InputError
from vadclip.extract.encode import Extracted, OpenVideo, extract
from vadclip.extract.failures import Failure
from vadclip.extract.units import Unit
from vadclip.extract.video_cache import DEFAULT_BYTES, default_cache
from vadclip.features.provenance import Provenance
from vadclip.features.shards import write_shard
from vadclip.pool.work import Beat
from vadclip.remote import is_remote, open_filesystem, plain_faults


@dataclass(frozen=True)
class UnitReport:
    """What a worker tells the driver about a unit; the rows are in a file."""

    shard: str | None
    failures: tuple[Failure, ...]
    seconds: dict[str, float]
    counts: dict[str, int]


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to start, on whatever machine."""

    clip: ClipParams
    provenance: Provenance
    device: str
    threads: int
    decoder: str
    batch_images: int
    temporary: str
    """Folder for shards, seen by driver and workers alike, or the address of one."""
    video_cache_bytes: int = DEFAULT_BYTES
    """Bound of the node's cache of remote videos."""

    @staticmethod
    def of(
        clip: ClipParams, execution: ExecutionParams, provenance: Provenance, temporary: Path | str
    ) -> "WorkerSettings":
        """Settings as the params say."""
        return WorkerSettings(
            clip=clip,
            provenance=provenance,
            device=execution.device,
            threads=max(1, int(execution.cpus_per_actor)),
            decoder=execution.decoder,
            batch_images=execution.encoder_batch,
            temporary=str(temporary),
            video_cache_bytes=int(execution.video_cache_gib * 2**30),
        )


class ExtractWorker:
    """Runs units with CLIP and leaves each one's rows as a shard in the temporary folder.

    Raises InputError if this machine cannot work: no folder, no GPU, other weights.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        import torch  # the driver, which imports this module too, needs neither of them

        from vadclip.clip.frozen import load_clip

        self._settings = settings
        self._temporary = shared_folder(settings.temporary)
        torch.set_num_threads(settings.threads)
        try:
            self._clip = load_clip(settings.clip, device=settings.device)
        except torch.OutOfMemoryError:
            raise InputError(
                f"node {socket.gethostname()}: GPU memory has no room for one more CLIP: raise "
                "execution.gpus_per_actor so that fewer actors share a GPU"
            ) from None
        if self._clip.fingerprint != settings.provenance.clip_fingerprint:
            raise InputError(f"node {socket.gethostname()} has other CLIP weights than the driver")
        self._videos = OpenVideo(settings.decoder, partial(default_cache, settings.video_cache_bytes))

    def run(self, unit: Unit, beat: Beat) -> UnitReport:
        """Extract one unit; InputError if the GPU has no room for the work, or the disk for the rows."""
        import torch

        batch_images = self._settings.batch_images
        try:
            out = extract(unit, self._clip, self._videos, batch_images=batch_images, beat=beat)
        except torch.OutOfMemoryError:
            raise InputError(
                f"node {socket.gethostname()}: GPU memory is full with batches of {batch_images} images: "
                "lower execution.encoder_batch, or raise gpus_per_actor so that fewer actors share a GPU"
            ) from None
        finally:
            self._videos.rest()
        return leave_shard(out, self._temporary, self._settings.provenance)


def shared_folder(temporary: str) -> Path | str:
    """Return the folder for shards, or its address; InputError if this machine does not see it."""
    if is_remote(temporary):
        open_filesystem(temporary)
        return temporary
    folder = Path(temporary)
    if not folder.is_dir():
        raise InputError(
            f"node {socket.gethostname()} does not see {folder}: put the project on storage all nodes see"
        )
    return folder


def leave_shard(out: Extracted, folder: Path | str, provenance: Provenance) -> UnitReport:
    """Write what a unit gave as a shard, if anything, and report.

    Raises InputError if it cannot be written, OSError if the network fails: another attempt may do better.
    """
    shard = None
    if out.blocks:
        try:
            with out.clock("write"):
                shard = (
                    write_shard(folder, "part", provenance, out.blocks, out.arrays)
                    if isinstance(folder, Path)
                    else _upload(out, folder, provenance)
                )
        except OSError as error:
            if error.errno == errno.EIO and not isinstance(folder, Path):
                raise
            raise InputError(f"{folder} cannot be written: {error.strerror or error}") from None
    return UnitReport(str(shard) if shard else None, tuple(out.failures), dict(out.seconds), dict(out.counts))


def _upload(out: Extracted, folder: str, provenance: Provenance) -> str:
    """Leave a unit's shard at `folder`, an address; return the shard's."""
    filesystem, path = open_filesystem(folder)
    with tempfile.TemporaryDirectory() as local, plain_faults(folder):
        shard = write_shard(Path(local), "part", provenance, out.blocks, out.arrays)
        filesystem.put_file(str(shard), f"{path}/{shard.name}")
        return f"{folder}/{shard.name}"
