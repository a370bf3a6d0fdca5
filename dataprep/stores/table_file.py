"""Tables of Arrow: Parquet files, and the files that `datasets` saves; read in batches of rows."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import ConfigError, RecordError
from ...loaders.image_folder import machine_trouble
from .archive_file import ArchiveFile
from .parquet_pages import Values, find_values

if TYPE_CHECKING:
    import pyarrow as pa

# Small enough that what was read is still in the processor's cache when it is copied.
_BATCH_BYTES = 1 << 20
_READ_BYTES = 64 << 10
_MOST_ROWS = 1024
_KEPT_BYTES = 32 << 20
_PARQUET = b"PAR1"
_ARROW_FILE = b"ARROW1"

Batch = tuple[int, "pa.RecordBatch"]
"""Number of the first row, and rows."""


class TableFile(Protocol):
    """One file of a table."""

    rows: int
    schema: pa.Schema

    def batches(self, leaves: Sequence[str], start: int) -> Iterator[Batch]:
        """Rows from the start of `group(start)` on, with nothing but some columns.

        Args:
            leaves: names of columns, or of one field within, such as `image.path`.
            start: number of a row.
        """
        ...

    def group(self, row: int) -> range:
        """The rows together with which a row is read."""
        ...

    def place(self, leaf: str, row: int) -> tuple[int, int] | None:
        """Offset in the file and size of a value, where it can be read from there."""
        ...

    def mean_bytes(self, leaf: str, row: int) -> int | None:
        """Mean size of what a column has in the group of a row, where to know more costs much."""
        ...

    def release(self, read_bytes: int) -> None:
        """Told how much of a batch was used, so that memory can be given back."""
        ...


def open_table(path: Path) -> TableFile:
    """Open a file of a table, by its first bytes.

    Raises:
        RecordError: it is damaged, or no table.
        ConfigError: pyarrow is missing.
    """
    arrow()
    try:
        with path.open("rb") as file:
            begin = file.read(8)
        table = ParquetTable(path) if begin.startswith(_PARQUET) else ArrowTable(path, begin)
        # pyarrow decodes names only where they are asked for: here they may fail.
        _read_names(table.schema)
        return table
    except arrow_errors() as error:
        raise damaged(path, error) from error


def _read_names(fields: Any) -> None:
    for field in fields:
        _ = field.name
        kind = field.type
        if hasattr(kind, "value_field"):
            _read_names([kind.value_field])
        elif hasattr(kind, "fields"):
            _read_names(kind.fields)


def damaged(path: Path, error: Exception, place: str = "") -> Exception:
    """What to raise where a table cannot be read: its own fault, or the machine's."""
    if isinstance(error, OSError) and error.errno:
        return machine_trouble(os.fspath(path), error)
    where = f"{path}{place and ': '}{place}"
    return RecordError(
        f"{where}: the table is damaged: {' '.join(str(error).split())[:200]}; copy or download "
        "the file again"
    )


def arrow_errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises of a file that it cannot read."""
    return (OSError, ValueError, KeyError, IndexError, NotImplementedError, _arrow_exception())


@cache
def _arrow_exception() -> type[Exception]:
    import pyarrow as pa

    error: type[Exception] = pa.lib.ArrowException
    return error


def arrow() -> Any:
    """The package pyarrow.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigError(
            "tables of Parquet and Arrow need pyarrow: pip install 'neva-prep[parquet]'"
        ) from error
    return pyarrow


class ParquetTable:
    """A Parquet file, read page by page: a row group of images need not fit in memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False)
        self._metadata = self._file.metadata
        self.schema = self._file.schema_arrow
        self.rows = self._metadata.num_rows
        groups = range(self._metadata.num_row_groups)
        counts = [self._metadata.row_group(group).num_rows for group in groups]
        self._starts = [0, *accumulate(counts)]
        self._means: dict[tuple[str, int], int] = {}
        self._pages = ArchiveFile(path)
        self._found: tuple[tuple[str, int], Values | None] = (("", -1), None)

    def batches(self, leaves: Sequence[str], start: int) -> Iterator[Batch]:
        """See TableFile."""
        wanted = self._paths(leaves)
        for group in range(_place(self._starts, start), len(self._starts) - 1):
            at, size = self._starts[group], self._batch_rows(wanted, group)
            # One group at a time: a batch that reached into the next would be lost with it.
            for batch in self._file.iter_batches(
                size, row_groups=[group], columns=wanted, use_threads=False
            ):
                yield at, batch
                at += batch.num_rows

    def group(self, row: int) -> range:
        """See TableFile."""
        place = _place(self._starts, row)
        return range(self._starts[place], self._starts[place + 1])

    def place(self, leaf: str, row: int) -> tuple[int, int] | None:
        """See TableFile; found for a row group at a time."""
        group = _place(self._starts, row)
        if (leaf, group) != self._found[0]:
            try:
                values = find_values(self._pages, self._metadata, group, leaf)
            except (ValueError, KeyError, TypeError):
                # Packed, or damaged: what reads it otherwise says so.
                values = None
            self._found = (leaf, group), values
        values = self._found[1]
        at = row - self._starts[group]
        if values is None or not 0 <= at < len(values.sizes) or values.sizes[at] < 0:
            return None
        return int(values.offsets[at]), int(values.sizes[at])

    def mean_bytes(self, leaf: str, row: int) -> int | None:
        """See TableFile; the footer says how much there is of each column."""
        place = _place(self._starts, row)
        if (leaf, place) not in self._means:
            group, paths = self._metadata.row_group(place), self._paths([leaf])
            columns = [group.column(number) for number in range(group.num_columns)]
            column = next((c for c in columns if c.path_in_schema in paths), None)
            known = column.statistics if column is not None else None
            empty = known.null_count if known is not None and known.has_null_count else 0
            count = 1 if column is None else max(1, column.num_values - empty)
            size = 0 if column is None else column.total_uncompressed_size
            self._means[leaf, place] = int(size // count)
        return self._means[leaf, place]

    def release(self, read_bytes: int) -> None:
        """See TableFile."""

    def _paths(self, leaves: Sequence[str]) -> list[str]:
        """Names of the file's own columns: a field of a list goes by `images.list.element.path`."""
        own = [self._file.schema.column(place).path for place in range(len(self._file.schema))]
        paths = []
        for leaf in leaves:
            column, _, field = leaf.rpartition(".")
            inner = [p for p in own if p.startswith(f"{column}.") and p.endswith(f".{field}")]
            whole = [p for p in own if p == leaf or p.startswith(f"{leaf}.")]
            paths += whole or inner
        return paths

    def _batch_rows(self, paths: list[str], number: int) -> int:
        """As many rows of a group as have a few megabytes."""
        group = self._metadata.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in paths)
        each = max(1, size // max(1, group.num_rows))
        return int(max(1, min(_MOST_ROWS, _BATCH_BYTES // each)))


class ArrowTable:
    """A file of record batches, mapped: what is not asked for is not read."""

    def __init__(self, path: Path, begin: bytes) -> None:
        pa = arrow()
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        buffer = pa.py_buffer(self._map)
        if begin.startswith(_ARROW_FILE):
            reader = pa.ipc.open_file(buffer)
            self._batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        else:
            reader = pa.ipc.open_stream(buffer)
            self._batches = list(reader)
        self.schema = reader.schema
        self._starts = [0, *accumulate(batch.num_rows for batch in self._batches)]
        self.rows = self._starts[-1]
        self._read_bytes = 0

    def batches(self, leaves: Sequence[str], start: int) -> Iterator[Batch]:
        """See TableFile."""
        columns = [self._column_of(leaf) for leaf in leaves]
        for batch in range(_place(self._starts, start), len(self._batches)):
            whole = self._batches[batch].select(columns)
            for at in range(0, max(1, whole.num_rows), _MOST_ROWS):
                part = whole.slice(at, _MOST_ROWS)
                # What stands in the file is not trusted to stay within it.
                part.validate(full=True)
                yield self._starts[batch] + at, part
                self.release(_BATCH_BYTES)

    def group(self, row: int) -> range:
        """See TableFile."""
        place = _place(self._starts, row)
        return range(self._starts[place], self._starts[place + 1])

    def place(self, leaf: str, row: int) -> tuple[int, int] | None:
        """See TableFile; here the map is read instead."""
        return None

    def mean_bytes(self, leaf: str, row: int) -> int | None:
        """See TableFile; here each size can be read without what has it."""
        return None

    def release(self, read_bytes: int) -> None:
        """See TableFile. Pages of a mapped file count as this process's memory until then."""
        self._read_bytes += read_bytes
        if self._read_bytes > _KEPT_BYTES:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read_bytes = 0

    def _column_of(self, leaf: str) -> str:
        """A whole column costs no more than one field of it."""
        return leaf if leaf in self.schema.names else leaf.rpartition(".")[0]


def _place(starts: list[int], row: int) -> int:
    """Number of the group that a row is in; of the first where there is none."""
    return max(0, bisect_right(starts, row, hi=len(starts) - 1) - 1)
