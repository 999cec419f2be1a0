"""How the extract stage's units get done: which worker runs them, on which actors, with which files."""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vadclip.config import ClipParams, ExecutionParams
from vadclip.extract.encode import Extracted
from vadclip.extract.import_worker import ImportWorker, is_vit_b16
from vadclip.extract.units import Unit, split_unit
from vadclip.extract.worker import ExtractWorker
from vadclip.features.provenance import Provenance
from vadclip.pool.work import Outcome, Worker


def run_units(
    clip: ClipParams,
    execution: ExecutionParams,
    provenance: Provenance,
    units: Sequence[Unit],
    **callbacks: Any,
) -> Generator[Outcome[Unit, Extracted], None, None]:
    """Run units as `fill.RunUnits` says, by Ray actors that encode videos or import released features."""
    # Ray reads it when imported. Of a dead worker or node Ray prints pages; the pool says so in a line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    from vadclip.pool.pool import Pool  # Ray takes seconds, and is not needed where nothing is missing

    make_worker: Callable[[Mapping[str, str]], Worker[Unit, Extracted]]
    files: list[str] = []
    if provenance.source == "encoded":
        make_worker, files = partial(ExtractWorker, clip, execution, provenance), clip_files(clip)
    else:  # reading arrays needs no GPU
        make_worker = partial(_import_worker, provenance, is_vit_b16(clip))
        execution = execution.model_copy(update={"gpus_per_actor": 0.0})
    result_bytes = max(unit.rows for unit in units) * 2 * provenance.embed_dim
    with Pool(make_worker, execution, files, result_bytes) as pool:
        yield from pool.run(units, split=split_unit, **callbacks)


def clip_files(clip: ClipParams) -> list[str]:
    """Return what the params name by file, not by an open_clip name or tag."""
    return [name for name in (clip.config_name, clip.weights_name) if Path(name).is_file()]


def _import_worker(provenance: Provenance, of_vit_b16: bool, files: Mapping[str, str]) -> ImportWorker:
    return ImportWorker(provenance, of_vit_b16)
