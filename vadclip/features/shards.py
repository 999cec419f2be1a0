"""Shards: the Parquet files of the feature store, self-describing and mapped into memory without a copy.

A row is (video_id, crop, snippet, embedding). Rows stand in blocks, one for consecutive snippets of one crop
of one video; the footer's metadata lists the blocks and the provenance, so that a store can be rebuilt from
its shards alone. A shard's name ends in a hash of its bytes, which tells a damaged file from a whole one.

Embeddings are stored plain and each row group's in a single page: in the file they are one array [rows, D].
A row group holds whole blocks, but for very long ones, which are divided.

Legend of shape suffixes: R rows (snippets), D width of a feature.
"""

import json
import os
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from inspect import signature
from itertools import accumulate
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vadclip.errors import InputError
from vadclip.features.pages import plain_values_start
from vadclip.features.provenance import Provenance
from vadclip.files import sha256_file

_PROVENANCE_KEY, _BLOCKS_KEY = b"vadclip.provenance", b"vadclip.blocks"
ROW_GROUP_BYTES = 2 * 2**20  # of embeddings; writing a group takes ten times that
LONG_BLOCK_BYTES = 16 * 2**20  # a longer block is divided among groups
HASH_DIGITS = 16
_DECODED_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows: snippets [start, start + rows) of one crop of one video."""

    video_id: str
    crop: int
    start: int
    stop: int
    """Snippets [start, stop) were asked for; fewer rows mean that the video ended before."""
    rows: int
    frames: int
    """Frames of the video known to exist: where it ended, or up to where it was read."""
    content_hash: str
    """Of the video file."""
    lost: int = 0
    """Frames of these snippets for which no picture was decoded."""

    @property
    def short(self) -> bool:
        """Whether the video ended within or before this block."""
        return self.rows < self.stop - self.start


BLOCK_FIELDS = tuple(field.name for field in fields(Block))
block_values = attrgetter(*BLOCK_FIELDS)
"""Return a block as a row of `BLOCK_FIELDS`; `Block(*row)` is the way back."""


def schema(width: int) -> pa.Schema:
    """Return the columns of a shard of rows of `width` values."""
    element = pa.field("element", pa.float16(), nullable=False)
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("crop", pa.uint8(), nullable=False),
            pa.field("snippet", pa.int32(), nullable=False),
            pa.field("embedding", pa.list_(element, width), nullable=False),
        ]
    )


def write_shard(
    folder: Path,
    prefix: str,
    provenance: Provenance,
    blocks: Sequence[Block],
    arrays: Iterable[NDArray[np.float16]],
    *,
    row_group_bytes: int = ROW_GROUP_BYTES,
    long_block_bytes: int = LONG_BLOCK_BYTES,
) -> Path:
    """Write `<folder>/<prefix>-<hash>.parquet` with one array [rows, D] per block; return its path.

    Arrays are taken one by one, so that the caller need not hold them all. Equal content gives equal bytes.
    A row group ends once it has `row_group_bytes`; a block over `long_block_bytes` is divided among groups.
    """
    width = provenance.embed_dim
    described = schema(width).with_metadata(
        {
            _PROVENANCE_KEY: provenance.to_json(),
            _BLOCKS_KEY: json.dumps([block_values(block) for block in blocks], separators=(",", ":")),
        }
    )
    options = {"use_dictionary": ["video_id", "crop"], "compression": "none", "write_statistics": False}
    # One page per row group: no limit of size, nor of rows where this pyarrow has one.
    options["data_page_size"] = 2**30
    if "max_rows_per_page" in signature(pq.ParquetWriter.__init__).parameters:
        options["max_rows_per_page"] = 2**31 - 1
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{prefix}.{uuid.uuid4().hex}.tmp"
    try:
        with pq.ParquetWriter(temporary, described, **options) as writer:
            longest = max(1, long_block_bytes // (2 * width))
            for group in _row_groups(blocks, arrays, width, row_group_bytes, longest):
                writer.write_batch(group, row_group_size=max(1, group.num_rows))
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        path = folder / f"{prefix}-{_short_hash(temporary)}.parquet"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


class Shard:
    """A shard opened for reading; raises InputError if the file is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._metadata = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} is no readable Parquet file ({error})") from None
        described = self._metadata.metadata or {}
        if _BLOCKS_KEY not in described or _PROVENANCE_KEY not in described:
            raise InputError(f"{path} is no shard of a feature store")
        self.provenance = Provenance.from_json(described[_PROVENANCE_KEY])
        self.blocks = tuple(Block(*values) for values in json.loads(described[_BLOCKS_KEY]))
        groups = [self._metadata.row_group(number) for number in range(self._metadata.num_row_groups)]
        self._group_ends = list(accumulate(group.num_rows for group in groups))
        self._block_ends = list(accumulate(block.rows for block in self.blocks))
        if (self._group_ends or [0])[-1] != (self._block_ends or [0])[-1]:
            raise InputError(f"{path} holds other rows than it says")
        self._starts: dict[int, int | None] = {}
        self._mapped: dict[int, NDArray[np.float16]] = {}
        self._decoded: dict[int, NDArray[np.float16]] = {}

    @property
    def row_bytes(self) -> int:
        """Size of all embeddings."""
        return 2 * self.provenance.embed_dim * sum(block.rows for block in self.blocks)

    def intact(self) -> bool:
        """Whether the file's bytes are those that were written: its name holds their hash."""
        return self.path.stem.endswith(f"-{_short_hash(self.path)}")

    def rows(self, number: int) -> NDArray[np.float16]:
        """Return embeddings_RD of block `number`: a read-only view of the file, of a long one a copy."""
        return self._joined([self._group(group)[start:stop] for group, start, stop in self._parts(number)])

    def read(self, number: int) -> NDArray[np.float16]:
        """Return what `rows` does, read from the file: mapped pages would stay in this process's memory."""
        return self._joined([self._read(*part) for part in self._parts(number)])

    def _joined(self, parts: list[NDArray[np.float16]]) -> NDArray[np.float16]:
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, self.provenance.embed_dim), np.float16), *parts])

    def _parts(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield the row groups that a block lies in, each with the rows [start, stop) that it has there."""
        stop = self._block_ends[number]
        at = stop - self.blocks[number].rows
        while at < stop:
            group = bisect_right(self._group_ends, at)
            first = self._group_ends[group - 1] if group else 0
            until = min(stop, self._group_ends[group])
            yield group, at - first, until - first
            at = until

    def _read(self, group: int, start: int, stop: int) -> NDArray[np.float16]:
        if (at := self._plain_start(group)) is None:
            return self._group(group)[start:stop]
        width = self.provenance.embed_dim
        values = np.fromfile(self.path, np.float16, (stop - start) * width, offset=at + 2 * width * start)
        return values.reshape(-1, width)

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, np.uint8, "r")

    def _group(self, number: int) -> NDArray[np.float16]:
        """Return embeddings_RD of a row group, as they lie in the file where its layout allows."""
        if number in self._mapped:
            return self._mapped[number]
        width = self.provenance.embed_dim
        if (at := self._plain_start(number)) is not None:
            end = at + 2 * width * self._metadata.row_group(number).num_rows
            self._mapped[number] = self._bytes[at:end].view(np.float16).reshape(-1, width)
            return self._mapped[number]
        decoded = self._decoded.get(number)  # kept in hand: another thread may clear the cache meanwhile
        if decoded is None:  # written by another Parquet library, or compressed since
            if len(self._decoded) >= _DECODED_GROUPS:
                self._decoded.clear()
            table = pq.ParquetFile(self.path).read_row_group(number, columns=["embedding"])
            flat = table.column("embedding").combine_chunks().flatten().to_numpy()
            self._decoded[number] = decoded = flat.reshape(-1, width)
        return decoded

    def _plain_start(self, number: int) -> int | None:
        """Where a row group's embeddings begin in the file; None if they do not lie there as they are."""
        if number not in self._starts:
            group = self._metadata.row_group(number)
            values = group.num_rows * self.provenance.embed_dim
            column = group.column(group.num_columns - 1)
            self._starts[number] = plain_values_start(self.path, column, values, value_bytes=2)
        return self._starts[number]


def _row_groups(
    blocks: Sequence[Block], arrays: Iterable[NDArray[np.float16]], width: int, group_bytes: int, longest: int
) -> Iterator[pa.RecordBatch]:
    """Gather blocks into row groups: whole ones, so that they can be mapped, unless they are very long."""
    gathered: list[tuple[Block, NDArray[np.float16]]] = []
    size = 0
    for block, array_RD in zip(blocks, arrays, strict=True):
        assert array_RD.shape == (block.rows, width), (block, array_RD.shape)
        assert array_RD.dtype == np.float16
        for start in range(0, max(1, block.rows), longest):
            rows = min(longest, block.rows - start)
            part = replace(block, start=block.start + start, rows=rows)
            gathered.append((part, array_RD[start : start + rows]))
            size += 2 * width * rows
            if size >= group_bytes:
                yield _row_group(gathered, width)
                gathered, size = [], 0
    if gathered:
        yield _row_group(gathered, width)


def _row_group(gathered: list[tuple[Block, NDArray[np.float16]]], width: int) -> pa.RecordBatch:
    blocks = [block for block, _ in gathered]
    counts = [block.rows for block in blocks]
    ids = np.repeat(np.array([block.video_id for block in blocks], object), counts)
    crops = np.repeat(np.array([block.crop for block in blocks], np.uint8), counts)
    snippets = [np.arange(block.start, block.start + block.rows, dtype=np.int32) for block in blocks]
    values = pa.array(np.concatenate([array_RD.reshape(-1) for _, array_RD in gathered]))
    columns = schema(width)
    embeddings = pa.FixedSizeListArray.from_arrays(values, type=columns.field("embedding").type)
    parts = [pa.array(ids), pa.array(crops), pa.array(np.concatenate(snippets)), embeddings]
    return pa.record_batch(parts, schema=columns)


def _short_hash(path: Path) -> str:
    return sha256_file(path)[:HASH_DIGITS]
