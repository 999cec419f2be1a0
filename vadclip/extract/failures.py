"""Videos that failed: a file of lines that grows while a run goes on, so that a kill forgets none."""

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from vadclip.features.provenance import Provenance
from vadclip.files import atomic_path
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
    """The failures of one provenance, the latest of each video, kept in `<folder>/failures.jsonl`."""

    def __init__(self, folder: Path, provenance: Provenance) -> None:
        self._path = folder / FAILURES_NAME
        self._fingerprint = provenance.fingerprint
        self._known: dict[str, Failure] = {}
        self._fresh: set[str] = set()
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                fields = json.loads(line)
            except ValueError:
                continue  # the last line, cut off by a kill
            if fields.pop("provenance") == self._fingerprint:
                self._known[fields["video_id"]] = Failure(**fields)

    def of(self, video: Video) -> Failure | None:
        """Return the latest failure of a video as it is now."""
        failure = self._known.get(video.video_id)
        return failure if failure is not None and failure.content_hash == video.content_hash else None

    def fresh(self, video_id: str) -> bool:
        """Whether a video has failed since this was opened."""
        return video_id in self._fresh

    def add(self, failure: Failure) -> None:
        """Note a failure at once."""
        if not self._fresh and self._path.exists():
            with atomic_path(self._path) as temporary:  # it may be a hard link into DVC's cache
                shutil.copyfile(self._path, temporary)
        self._known[failure.video_id] = failure
        self._fresh.add(failure.video_id)
        with open(self._path, "a", encoding="utf-8") as opened:
            opened.write(self._line(failure))

    def settle(self, kept: Collection[str]) -> None:
        """Forget all failures but those of some videos, and rewrite the file in order, if it changes."""
        self._known = {name: failure for name, failure in sorted(self._known.items()) if name in kept}
        if not self._known:
            self._path.unlink(missing_ok=True)
            return
        with (
            atomic_path(self._path, keep_equal=True) as temporary,
            open(temporary, "w", encoding="utf-8") as opened,
        ):
            opened.writelines(map(self._line, self._known.values()))

    def _line(self, failure: Failure) -> str:
        return json.dumps(asdict(failure) | {"provenance": self._fingerprint}) + "\n"
