"""What was found out about files, remembered by path, size and modification time in `.cache/probe.parquet`.

Deleting the file changes nothing but the time that the next ingest takes.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vadclip.files import atomic_path, held_alone

PROBE_VERSION = "3"  # raise when `video.probe` counts or refuses otherwise: older memories are then forgotten


@dataclass(frozen=True)
class Identity:
    """What tells a changed file from an unchanged one without opening it."""

    size: int
    """Bytes; -1 if a server does not say."""
    stamp: str
    """Modification time in ns; of a remote file the store's tag or time."""


@dataclass(frozen=True)
class Probe:
    """What was found out about one file; `error` says why it cannot be used."""

    num_frames: int = 0
    """Frames counted; of a feature file rows * 16."""
    fps: float = 0.0
    width: int = 0
    """Pixels; of a feature file the width D of its rows."""
    height: int = 0
    bytes: int = 0
    content_hash: str = ""
    """SHA-256; empty if the file could not be read."""
    error: str | None = None
    intact: bool = False
    seekable: bool = True
    """See `frame_reader.VideoInfo` for both."""


_TYPES: dict[Any, Any] = {
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    str: pa.string(),
    str | None: pa.string(),
}
_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        **{field.name: _TYPES[field.type] for kind in (Identity, Probe) for field in fields(kind)},
    },
    metadata={"vadclip.probe_version": PROBE_VERSION},
)


class ProbeCache:
    """The memory; `remember` keeps in mind, `save` writes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries = _read(file)
        self._fresh: dict[str, tuple[Identity, Probe]] = {}

    def recall(self, path: str, identity: Identity) -> Probe | None:
        """Return what is known of the file at `path` if it still is that file."""
        known, probe = self._entries.get(path, (None, None))
        return probe if known == identity else None

    def remember(self, path: str, identity: Identity, probe: Probe) -> None:
        """Keep a finding until the next `save`."""
        self._fresh[path] = (identity, probe)

    def save(self) -> None:
        """Write new findings, beside what another ingest may have written meanwhile."""
        if not self._fresh:
            return
        with held_alone(self._file.with_suffix(".lock"), "noting what files hold", wait=True):
            self._entries |= _read(self._file) | self._fresh
            self._fresh = {}
            rows = [
                {"path": path, **asdict(identity), **asdict(probe)}
                for path, (identity, probe) in sorted(self._entries.items())
            ]
            with atomic_path(self._file) as temporary:
                pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)


def _read(file: Path) -> dict[str, tuple[Identity, Probe]]:
    try:
        table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowInvalid):  # absent, or damaged: only a memory
        return {}
    if not table.schema.equals(_SCHEMA, check_metadata=True):
        return {}
    entries = {}
    for row in table.to_pylist():
        path, identity = row.pop("path"), Identity(size=row.pop("size"), stamp=row.pop("stamp"))
        entries[path] = (identity, Probe(**row))
    return entries
