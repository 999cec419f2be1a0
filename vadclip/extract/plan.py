"""The whole plan of a run, on disk: units go in as they are made and come out largest first."""

import json
from collections.abc import Iterable, Iterator

from vadclip.extract.units import Slice, Unit
from vadclip.scratch import open_scratch

# In the order of the key: the largest first, and of equal ones the first made.
_SCHEMA = """
CREATE TABLE units (
  images INTEGER, number INTEGER, unit TEXT, PRIMARY KEY (images DESC, number)
) WITHOUT ROWID
"""


class Plan:
    """Units to be done; only the one at hand is in memory."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._table = open_scratch(_SCHEMA)
        self._table.executemany(
            "INSERT INTO units VALUES (?, ?, ?)",
            ((unit.images, number, _to_json(unit)) for number, unit in enumerate(units)),
        )
        asked = "SELECT COUNT(*), TOTAL(images) FROM units"
        count, images = self._table.execute(asked).fetchone()
        self._count, self.images = int(count), int(images)

    def close(self) -> None:
        """Give the disk space back."""
        self._table.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Unit]:
        rows = self._table.execute("SELECT unit FROM units ORDER BY images DESC, number")
        return (_from_json(text) for (text,) in rows)


def _to_json(unit: Unit) -> str:
    slices = [
        (part.video_id, part.content_hash, part.location, part.num_frames, part.start, part.stop)
        for part in unit.slices
    ]
    return json.dumps([unit.frames_per_snippet, unit.crops, slices])


def _from_json(text: str) -> Unit:
    frames_per_snippet, crops, slices = json.loads(text)
    parts = (
        Slice(video_id, content_hash, location, num_frames, tuple(crops), start, stop)
        for video_id, content_hash, location, num_frames, start, stop in slices
    )
    return Unit(tuple(parts), frames_per_snippet)
