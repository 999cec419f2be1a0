"""Where the values of a Parquet column lie in the file, for columns that were written as one plain page.

Such a page is the bytes of an array after a short header, so that it can be mapped or read without Parquet.
"""

from pathlib import Path
from typing import Any

_HEADER_BYTES = 256
_THRIFT_INTEGER, _THRIFT_STRUCT, _DATA_PAGE_HEADER = 5, 12, 5


def plain_values_start(path: Path, column: Any, values: int, value_bytes: int) -> int | None:
    """Offset of a column chunk's values in the file; None if they do not lie there as they are.

    `column` is pyarrow's metadata of the chunk, which holds `values` values.
    """
    if column.compression != "UNCOMPRESSED":
        return None
    with open(path, "rb") as file:
        file.seek(column.data_page_offset)
        plain = _is_plain_page(file.read(_HEADER_BYTES), values)
    end: int = column.data_page_offset + column.total_compressed_size
    return end - value_bytes * values if plain else None


def _is_plain_page(header: bytes, values: int) -> bool:
    """Whether a column chunk is one version 1 data page of `values` plainly encoded values.

    Reads the page header (Thrift compact protocol): field 1 type, 2 and 3 sizes, 4 checksum, then 5,
    the data page header, which starts with the number of values and their encoding (0 = plain).
    """
    read, field = iter(header), 0

    def integer() -> int:
        value, shift = 0, 0
        while (byte := next(read)) > 127:
            value, shift = value | (byte & 127) << shift, shift + 7
        value |= byte << shift
        return (value >> 1) ^ -(value & 1)

    try:
        while field < _DATA_PAGE_HEADER:
            delta, kind = divmod(next(read), 16)
            field += delta
            if field < _DATA_PAGE_HEADER and kind == _THRIFT_INTEGER:
                integer()
            elif field != _DATA_PAGE_HEADER or kind != _THRIFT_STRUCT:
                return False
        next(read)  # that an integer follows: the number of values
        count = integer()
        next(read)
        return count == values and integer() == 0
    except StopIteration:  # no header that a writer would write
        return False
