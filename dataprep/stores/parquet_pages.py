"""Where the values of a Parquet column lie in its file, if they are neither packed nor encoded.

`datasets` writes images so. Then an image is read like a file: from its place, in any order. The
format is that of https://parquet.apache.org/docs/file-format/ (page headers are Thrift's compact
protocol, levels the hybrid of runs and packed bits, values 4 bytes of length before each).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .archive_file import ArchiveFile

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_HEADER_BYTES = 64 << 10
_MAX_DEPTH = 8
_PLAIN = 0
_DATA_PAGE, _DATA_PAGE_V2 = 0, 3


class Values(NamedTuple):
    """Where the values of one row group lie."""

    offsets: np.ndarray
    """uint64[rows], bytes of the file."""
    sizes: np.ndarray
    """int64[rows], -1 where there is none."""


def find_values(file: ArchiveFile, metadata: pq.FileMetaData, group: int, leaf: str) -> Values:
    """Find the values of a column without lists.

    Args:
        file: the Parquet file.
        metadata: its footer.
        group: number of the row group.
        leaf: name of the column, or of a field in it.

    Raises:
        ValueError: they are packed, encoded or in lists, or a page is damaged.
        KeyError: likewise.
    """
    names = [metadata.schema.column(number).path for number in range(len(metadata.schema))]
    number = names.index(leaf)
    column, shape = metadata.row_group(group).column(number), metadata.schema.column(number)
    is_plain = column.compression == "UNCOMPRESSED" and not column.has_dictionary_page
    if not is_plain or shape.max_repetition_level or column.physical_type != "BYTE_ARRAY":
        raise ValueError("values are packed, encoded or in lists")
    at = column.data_page_offset
    stop, left = at + column.total_compressed_size, column.num_values
    if stop > file.size or left != metadata.row_group(group).num_rows:
        raise ValueError("the column is not all there")
    offsets, sizes = np.zeros(left, np.uint64), np.full(left, -1, np.int64)
    row, most = 0, shape.max_definition_level
    while row < left:
        page = _page(file, at, stop, most)
        if row + page.values > left:
            raise ValueError("a page has more values than the column")
        rows = row + np.flatnonzero(_present(file, page, most))
        _find_in_page(file, page, rows, offsets, sizes)
        row, at = row + page.values, page.stop
    return Values(offsets, sizes)


class _Page(NamedTuple):
    values: int
    """Those that are not there too."""
    levels: int
    """Offset of the levels."""
    start: int
    """Offset of the values, behind the levels."""
    stop: int
    """Offset of what follows the page."""


def _page(file: ArchiveFile, at: int, stop: int, most: int) -> _Page:
    header, size = _Thrift(file.read(at, min(_HEADER_BYTES, stop - at))).struct()
    kind, length, levels = header.get(1), header.get(3, 0), at + size
    head = header.get(8 if kind == _DATA_PAGE_V2 else 5)
    if kind not in (_DATA_PAGE, _DATA_PAGE_V2) or not isinstance(head, dict):
        raise ValueError("there is no page of values")
    if kind == _DATA_PAGE_V2:
        encoding, level_bytes = head[4], head[5]
    else:
        encoding, level_bytes = head[2], 0
        if most:
            level_bytes = int.from_bytes(file.read(levels, 4), "little")
            levels += 4
    page = _Page(head[1], levels, levels + level_bytes, at + size + length)
    is_whole = page.values > 0 and at + size <= levels <= page.start <= page.stop <= stop
    if encoding != _PLAIN or not is_whole:
        raise ValueError("the page is encoded or damaged")
    return page


def _present(file: ArchiveFile, page: _Page, most: int) -> np.ndarray:
    """bool[values]: which are there."""
    if not most:
        return np.ones(page.values, bool)
    packed = file.read(page.levels, page.start - page.levels)
    present: np.ndarray = _unpack(packed, most.bit_length(), page.values) == most
    return present


def _find_in_page(
    file: ArchiveFile, page: _Page, rows: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
) -> None:
    at = page.start
    for row in rows.tolist():
        length = int.from_bytes(file.read(at, 4), "little")
        offsets[row], sizes[row] = at + 4, length
        at += 4 + length
        if at > page.stop:
            raise ValueError("a value reaches beyond its page")
    if at != page.stop:
        raise ValueError("a page has more than its values")


def _unpack(data: bytes, width: int, count: int) -> np.ndarray:
    """uint8[count]: levels of up to 8 bits, from runs and packed bits."""
    found, at, have = [], 0, 0
    each = (width + 7) // 8
    while have < count:
        head, at = _varint(data, at)
        if head & 1:
            size = (head >> 1) * width
            bits = np.frombuffer(data[at : at + size], np.uint8)
            if len(bits) != size:
                raise ValueError("the levels are not all there")
            ones = np.unpackbits(bits, bitorder="little").reshape(-1, width)
            part = (ones << np.arange(width, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
            at += size
        else:
            value = int.from_bytes(data[at : at + each], "little")
            part = np.full(min(head >> 1, count - have), value, np.uint8)
            at += each
        if not len(part):
            raise ValueError("the levels are damaged")
        found.append(part)
        have += len(part)
    return np.concatenate(found)[:count] if found else np.empty(0, np.uint8)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


class _Thrift:
    """Reads what is written in Thrift's compact protocol."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """Fields by their numbers, and bytes read so far.

        Raises:
            ValueError: it is none, or is cut off.
        """
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._zigzag()
            fields[number] = self._value(kind, depth)
        return fields, self._at

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind in (7, 8):
            self._at += 8 if kind == 7 else self._number()
            return None
        if kind == 9:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._number()
            if count > len(self._data):
                raise ValueError("a list is longer than what holds it")
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self.struct(depth + 1)[0]
        raise ValueError("a field of an unknown kind")

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise ValueError("the header is cut off")
        self._at += 1
        return self._data[self._at - 1]

    def _number(self) -> int:
        value, self._at = _varint(self._data, self._at)
        return value

    def _zigzag(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)
