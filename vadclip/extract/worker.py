"""The worker that runs units with CLIP and returns their rows, on whatever machine it was started."""

import socket
from dataclasses import dataclass
from functools import partial

from vadclip.config import ClipParams, ExecutionParams
from vadclip.errors import InputError
from vadclip.extract.encode import Extracted, OpenVideo, extract
from vadclip.extract.units import Unit
from vadclip.extract.video_cache import DEFAULT_BYTES, default_cache
from vadclip.features.provenance import Provenance
from vadclip.pool.work import Beat


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to start, on whatever machine."""

    clip: ClipParams
    provenance: Provenance
    device: str
    threads: int
    decoder: str
    batch_images: int
    video_cache_bytes: int = DEFAULT_BYTES
    """Bound of the node's cache of remote videos."""

    @staticmethod
    def of(clip: ClipParams, execution: ExecutionParams, provenance: Provenance) -> "WorkerSettings":
        """Settings as the params say."""
        return WorkerSettings(
            clip=clip,
            provenance=provenance,
            device=execution.device,
            threads=max(1, int(execution.cpus_per_actor)),
            decoder=execution.decoder,
            batch_images=execution.encoder_batch,
            video_cache_bytes=int(execution.video_cache_gib * 2**30),
        )


class ExtractWorker:
    """Runs units with CLIP and returns their rows.

    Raises InputError if this machine cannot work: no GPU, other weights.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        import torch  # the driver, which imports this module too, needs neither of them

        from vadclip.clip.frozen import load_clip

        self._settings = settings
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

    def run(self, unit: Unit, beat: Beat) -> Extracted:
        """Extract one unit; InputError if the GPU has no room for the work."""
        import torch

        batch_images = self._settings.batch_images
        try:
            return extract(unit, self._clip, self._videos, batch_images=batch_images, beat=beat)
        except torch.OutOfMemoryError:
            raise InputError(
                f"node {socket.gethostname()}: GPU memory is full with batches of {batch_images} images: "
                "lower execution.encoder_batch, or raise gpus_per_actor so that fewer actors share a GPU"
            ) from None
        finally:
            self._videos.rest()
