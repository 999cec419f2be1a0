"""Videos that failed: a file of lines that grows while a run goes on, so that a kill forgets none."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from vadclip.features.provenance import Provenance
from vadclip.files import write_bytes_if_changed, write_text_atomic
from vadclip.manifest import Video

FAILURES_NAME = "failures.jsonl"


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
        self._failures: dict[str, Failure] = {}
        self._own_file = False
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else ():
            try:
                fields = json.loads(line)
            except ValueError:
                continue  # the last line, cut off by a kill
            if fields.pop("provenance") == self._fingerprint:
                self._failures[fields["video_id"]] = Failure(**fields)

    def of(self, video: Video) -> Failure | None:
        """Return the latest failure of a video as it is now."""
        failure = self._failures.get(video.video_id)
        return failure if failure is not None and failure.content_hash == video.content_hash else None

    def add(self, failure: Failure) -> None:
        """Note a failure at once."""
        self._failures[failure.video_id] = failure
        if not self._own_file and self._path.exists():
            # It may be a hard link into DVC's cache, which must not change.
            write_text_atomic(self._path, self._path.read_text(encoding="utf-8"))
        self._own_file = True
        with open(self._path, "a", encoding="utf-8") as opened:
            opened.write(self._line(failure))

    def keep_only(self, video_ids: Collection[str]) -> None:
        """Forget the others, and rewrite the file in order, unless it is that already."""
        kept = sorted(self._failures.keys() & set(video_ids))
        self._failures = {video_id: self._failures[video_id] for video_id in kept}
        if kept:
            lines = "".join(map(self._line, self._failures.values()))
            write_bytes_if_changed(self._path, lines.encode())
        else:
            self._path.unlink(missing_ok=True)

    def _line(self, failure: Failure) -> str:
        return json.dumps(asdict(failure) | {"provenance": self._fingerprint}) + "\n"
