"""The extract stage without Ray: the real worker, in this process."""

from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from clip_helpers import random_state, sparse_tokens, tiny_config, write_clip
from params_helpers import execution_params

from vadclip.clip.identity import identify_clip
from vadclip.config import ClipParams, ExtractParams
from vadclip.extract.encode import Extracted
from vadclip.extract.fill import fill_store
from vadclip.extract.store import FeatureStore
from vadclip.extract.tally import Filled
from vadclip.extract.units import Unit
from vadclip.extract.worker import ExtractWorker
from vadclip.features.provenance import Provenance
from vadclip.manifest import Manifest
from vadclip.pool.work import Outcome

BATCH = 16


def tiny_clip(folder: Path, image_size: int = 32, seed: int = 0) -> ClipParams:
    """Write a CLIP of a tenth of a MB; its image tower takes milliseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(image_size)
    return write_clip(folder, config, sparse_tokens(random_state(config, seed), ["normal", "fire"]))


class LocalRunner:
    """Runs units one after the other with the real worker; a real machine's faults end the test."""

    def __init__(self, clip: ClipParams, provenance: Provenance, **settings: object) -> None:
        self.clip, self.provenance = clip, provenance
        cpus = torch.get_num_threads()
        self.execution = execution_params(cpus_per_actor=cpus, encoder_batch=BATCH, **settings)
        self.units: list[Unit] = []
        self.beats: list[float] = []

    def __call__(
        self, units: Sequence[Unit], **callbacks: object
    ) -> Generator[Outcome[Unit, Extracted], None, None]:
        worker = ExtractWorker(self.clip, self.execution, self.provenance, {})
        for unit in units:
            self.units.append(unit)
            yield Outcome(unit, worker.run(unit, self.beats.append), None)


def extract_params(**changes: object) -> ExtractParams:
    settings = {
        "frames_per_snippet": 1,
        "train_crops": 10,
        "test_crop": 0,
        "max_failed_fraction": 0.0,
        "max_lost_fraction": 0.05,
    }
    return ExtractParams(**(settings | changes))


def extract_here(
    folder: Path,
    manifest: Manifest,
    root: Path | str,
    clip: ClipParams,
    params: ExtractParams,
    *,
    unit_images: int = 100,
    **settings: object,
) -> tuple[Filled, LocalRunner]:
    """Fill `folder`/features from the videos under `root`; `settings` are of params.execution."""
    identity = identify_clip(clip, folder / ".cache")
    provenance = Provenance.encoded(identity, clip.precision, params.frames_per_snippet)
    runner = LocalRunner(clip, provenance, **settings)
    store = FeatureStore(folder / "features", folder / ".cache", provenance, print)
    filled = fill_store(store, manifest.videos, str(root), params, unit_images=unit_images, run_units=runner)
    return filled, runner
