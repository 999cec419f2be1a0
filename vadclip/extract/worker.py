"""The worker that runs units with CLIP and returns their rows, on whatever machine it was started."""

import socket
from collections.abc import Mapping
from functools import partial

from vadclip.config import ClipParams, ExecutionParams
from vadclip.errors import InputError
from vadclip.extract.encode import Extracted, OpenVideo, extract
from vadclip.extract.units import Unit
from vadclip.extract.video_cache import default_cache
from vadclip.features.provenance import Provenance
from vadclip.pool.work import Beat


class ExtractWorker:
    """Runs units with CLIP and returns their rows.

    `files` maps a file that `clip` names to its copy on this machine. Raises InputError if this machine
    cannot work: no GPU, other weights.
    """

    def __init__(
        self, clip: ClipParams, execution: ExecutionParams, provenance: Provenance, files: Mapping[str, str]
    ) -> None:
        import torch  # the driver imports this module too, and needs neither

        from vadclip.clip.frozen import load_clip

        named = {"model": clip.config_name, "pretrained": clip.weights_name}
        here = clip.model_copy(update={key: files.get(name, name) for key, name in named.items()})
        torch.set_num_threads(max(1, int(execution.cpus_per_actor)))
        try:
            self._clip = load_clip(here, device=execution.device)
        except torch.OutOfMemoryError:
            raise InputError(
                f"node {socket.gethostname()}: GPU memory has no room for one more CLIP: raise "
                "execution.gpus_per_actor so that fewer actors share a GPU"
            ) from None
        if self._clip.fingerprint != provenance.clip_fingerprint:
            raise InputError(f"node {socket.gethostname()} has other CLIP weights than the driver")
        self._batch_images = execution.encoder_batch
        cache_bytes = int(execution.video_cache_gib * 2**30)
        self._videos = OpenVideo(execution.decoder, partial(default_cache, cache_bytes))

    def run(self, unit: Unit, beat: Beat) -> Extracted:
        """Extract one unit; InputError if the GPU has no room for the work."""
        import torch

        try:
            return extract(unit, self._clip, self._videos, batch_images=self._batch_images, beat=beat)
        except torch.OutOfMemoryError:
            raise InputError(
                f"node {socket.gethostname()}: GPU memory is full with batches of {self._batch_images} "
                "images: lower execution.encoder_batch, or raise gpus_per_actor so that fewer actors share a "
                "GPU"
            ) from None
        finally:
            self._videos.rest()
