"""Videos that failed: a file of lines that grows while a run goes on, so that a kill forgets none."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from vadclip.features.provenance import Provenance
from vadclip.files import atomic_path
from vadclip.manifest import Video
from vadclip.scratch import open_scratch

FAILURES_NAME = "failures.jsonl"
_SCHEMA = """
CREATE TABLE failures (
  video_id TEXT PRIMARY KEY, content_hash TEXT, error TEXT, lasting INTEGER, fresh INTEGER,
  kept INTEGER DEFAULT 0
) WITHOUT ROWID
"""
_FIELDS = "video_id, content_hash, error, lasting"


@dataclass(frozen=True)
class Failure:
    """Why a video has no features."""

    video_id: str
    content_hash: str
    error: str
    lasting: bool
    """It lies in the file, so trying again is of no use; otherwise the next run does."""


class Failures:
    """The failures of one provenance, kept in `<folder>/failures.jsonl`."""

    def __init__(self, folder: Path, provenance: Provenance) -> None:
        self._path = folder / FAILURES_NAME
        self._fingerprint = provenance.fingerprint
        self._table = open_scratch(_SCHEMA)
        self._own_file = False
        if not self._path.exists():
            return
        with open(self._path, encoding="utf-8") as lines:
            for line in lines:
                try:
                    fields = json.loads(line)
                except ValueError:
                    continue  # the last line, cut off by a kill
                if fields.pop("provenance") == self._fingerprint:
                    self._note(Failure(**fields), fresh=False)

    def of(self, video: Video) -> Failure | None:
        """Return the latest failure of a video as it is now."""
        found = self._table.execute(
            f"SELECT {_FIELDS} FROM failures WHERE video_id = ? AND content_hash = ?",
            (video.video_id, video.content_hash),
        ).fetchone()
        return _failure(found) if found is not None else None

    def fresh(self, video_id: str) -> bool:
        """Whether a video has failed since this was opened."""
        asked = "SELECT fresh FROM failures WHERE video_id = ?"
        found = self._table.execute(asked, (video_id,)).fetchone()
        return found is not None and bool(found[0])

    def add(self, failure: Failure) -> None:
        """Note a failure at once."""
        self._note(failure, fresh=True)
        if not self._own_file and self._path.exists():
            with atomic_path(self._path) as temporary:  # it may be a hard link into DVC's cache
                shutil.copyfile(self._path, temporary)
        self._own_file = True
        with open(self._path, "a", encoding="utf-8") as opened:
            opened.write(self._line(failure))

    def keep(self, video_id: str) -> None:
        """Mark the failure of a video as what `settle` keeps, if there is one."""
        self._table.execute("UPDATE failures SET kept = 1 WHERE video_id = ?", (video_id,))

    def settle(self) -> None:
        """Forget what was not marked, and rewrite the file in order, unless it is that already."""
        self._table.execute("DELETE FROM failures WHERE NOT kept")
        if self._table.execute("SELECT 1 FROM failures").fetchone() is None:
            self._path.unlink(missing_ok=True)
            return
        rows = self._table.execute(f"SELECT {_FIELDS} FROM failures ORDER BY video_id")
        with (
            atomic_path(self._path, keep_equal=True) as temporary,
            open(temporary, "w", encoding="utf-8") as opened,
        ):
            opened.writelines(self._line(_failure(row)) for row in rows)

    def _note(self, failure: Failure, *, fresh: bool) -> None:
        self._table.execute(
            f"INSERT OR REPLACE INTO failures ({_FIELDS}, fresh) VALUES (?, ?, ?, ?, ?)",
            (failure.video_id, failure.content_hash, failure.error, failure.lasting, fresh),
        )

    def _line(self, failure: Failure) -> str:
        return json.dumps(asdict(failure) | {"provenance": self._fingerprint}) + "\n"


def _failure(row: tuple[str, str, str, int]) -> Failure:
    video_id, content_hash, error, lasting = row
    return Failure(video_id, content_hash, error, bool(lasting))
