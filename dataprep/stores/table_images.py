"""Images inside a table: the bytes of a cell, as they are."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, unquote

from ...errors import DiskError, ImageError, NevaPrepError
from ...loaders.image_folder import ImageFolder, Room
from .archive_file import ArchiveFile, check_size
from .table_file import Batch, TableFile, arrow, arrow_errors, damaged, open_table
from .table_files import folder_of, table_files

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "table="
"""What a manifest says of a table before its path."""
_OPEN = 8
_REFERENCE = re.compile(r"(?P<file>[^#]*)#(?P<row>\d{1,15})/(?P<column>[^/]*)/(?P<item>\d{1,9})/")
_SAFE = " ()[]+,;:=@!~'&$*"


def reference(file: str, row: int, column: str, item: int, path: str) -> str:
    """What stands in a record for an image of a table; the path is what the table says of it.

    Example:
        >>> reference("train.parquet", 12, "image", 0, "cat.jpg")
        'train.parquet#12/image/0/cat.jpg'
    """
    name = quote(file, safe=f"/{_SAFE}")
    return f"{name}#{row}/{quote(column, safe=_SAFE)}/{item}/{path}"


class TableImages:
    """Images of the files of a table. Read in the order of the rows, each file is read once."""

    def __init__(self, path: str) -> None:
        """Find the files.

        Args:
            path: of a file, a folder of files, or a pattern.

        Raises:
            ConfigError: there is no table, or pyarrow is missing.
        """
        arrow()
        self.root = f"{PREFIX}{path}"
        self._path = Path(path)
        self._files = table_files(self._path)
        self._cursors: OrderedDict[tuple[str, str], _Cursor] = OrderedDict()
        self._tables: OrderedDict[str, TableFile] = OrderedDict()
        self._folder: ImageFolder | None = None

    def size(self, path: str) -> int:
        """See stores.store.ImageStore; of Parquet the mean of the images that lie together."""
        try:
            match = _REFERENCE.match(path)
            if match is None:
                return self._beside().size(path)
            cursor, row = self._cursor_of(match, path)
            place = cursor.place(row)
            if place is not None:
                return place[1]
            mean = cursor.mean_bytes(row)
            content = self._cell(path) if mean is None else None
        except NevaPrepError:
            return 0
        if content is not None:
            return int(content.size)
        return mean or self._beside().size(path[match.end() :])

    def read_into(self, path: str, room: Room) -> memoryview:
        """See stores.store.ImageStore.

        Raises:
            ImageError: with the reason; the message has the path.
            DiskError: the machine cannot read it.
        """
        match = _REFERENCE.match(path)
        if match is not None:
            cursor, row = self._cursor_of(match, path)
            place = cursor.place(row)
            if place is not None:
                check_size(path, place[1])
                target = room(place[1])
                if cursor.file.read_into(place[0], target) == len(target):
                    return target
        content = self._cell(path)
        if content is None:
            if not _path_of(path):
                _reject("missing_image", f"image {path!r} does not exist: its cell is empty")
            return self._beside().read_into(_path_of(path), room)
        check_size(path, content.size)
        target = room(content.size)
        target[:] = memoryview(content).cast("B")
        return target

    def _beside(self) -> ImageFolder:
        """The folder of the table: some keep their images as paths only."""
        if self._folder is None:
            self._folder = ImageFolder(str(folder_of(self._path)))
        return self._folder

    def _cell(self, path: str) -> pa.Buffer | None:
        """The image's bytes; None of a plain path, or where the cell has nothing but a path."""
        match = _REFERENCE.match(path)
        if match is None:
            return None
        cursor, row = self._cursor_of(match, path)
        try:
            return _buffer(cursor.cell(row), int(match["item"]))
        except ImageError as error:
            _reject(error.reason, f"image {path[:200]!r} {error}")

    def _cursor_of(self, match: re.Match[str], path: str) -> tuple[_Cursor, int]:
        file, column = unquote(match["file"]), unquote(match["column"])
        if file not in self._files:
            _reject("missing_image", f"image {path[:200]!r} is in no file of {self.root}")
        return self._cursor(file, column), int(match["row"])

    def _cursor(self, file: str, column: str) -> _Cursor:
        key = file, column
        if key not in self._cursors:
            self._cursors[key] = _Cursor(self._files[file], self._table(file), column)
            if len(self._cursors) > _OPEN:
                self._cursors.popitem(last=False)
        self._cursors.move_to_end(key)
        return self._cursors[key]

    def _table(self, file: str) -> TableFile:
        if file not in self._tables:
            self._tables[file] = open_table(self._files[file])
            if len(self._tables) > _OPEN:
                self._tables.popitem(last=False)
        return self._tables[file]


class _Cursor:
    """A place in one column of one file, which moves on with the rows that are asked for."""

    def __init__(self, path: Path, table: TableFile, column: str) -> None:
        self._path = path
        self.file = ArchiveFile(path)
        self._table = table
        self._leaf = _bytes_leaf(table.schema, column)
        self._batches: Iterator[Batch] = iter(())
        self._first, self._stop = 0, 0
        self._column: Any = None
        self._bad = range(0)
        self._error = ""

    def place(self, row: int) -> tuple[int, int] | None:
        """See TableFile."""
        return self._table.place(self._leaf, row)

    def mean_bytes(self, row: int) -> int | None:
        """See TableFile."""
        return self._table.mean_bytes(self._leaf, row)

    def cell(self, row: int) -> Any:
        """The scalar in a row."""
        if not 0 <= row < self._table.rows:
            _reject("missing_image", f"does not exist: the file has {self._table.rows:,} rows")
        if row in self._bad:
            _reject("damaged_archive", self._error)
        if not self._first <= row < self._stop:
            self._move(row)
        return self._column[row - self._first]

    def _move(self, row: int) -> None:
        group = self._table.group(row)
        try:
            if row < self._first or group.start >= self._stop:
                self._batches = self._table.batches([self._leaf], row)
                self._first = self._stop = group.start
            while row >= self._stop:
                if self._column is not None:
                    self._table.release(self._column.nbytes)
                self._first, batch = next(self._batches, (0, None))
                if batch is None:
                    raise ValueError("it has fewer rows than its footer says")
                self._column = batch.column(0)
                self._stop = self._first + batch.num_rows
        except arrow_errors() as error:
            found = damaged(self._path, error)
            # What is read together is lost together; each row is told of it.
            self._bad, self._error = range(group.start, group.stop), f"cannot be read: {found}"
            self._column, self._first, self._stop = None, 0, 0
            if isinstance(found, DiskError):
                raise found from error
            _reject("damaged_archive", self._error)


def _bytes_leaf(schema: pa.Schema, column: str) -> str:
    """Name of the column that holds images, or of the field in it that does."""
    if column not in schema.names:
        _reject("missing_image", f"does not exist: the file has no column {column!r}")
    kind = schema.field(column).type
    inner = kind.value_type if hasattr(kind, "value_field") else kind
    return f"{column}.bytes" if hasattr(inner, "get_field_index") else column


def _buffer(value: Any, item: int) -> pa.Buffer | None:
    """The bytes of an image in a cell: of a struct's field `bytes`, of one item of a list."""
    if hasattr(value.type, "value_field"):
        inner = value.values
        if inner is None or item >= len(inner):
            _reject("missing_image", "does not exist: its list is shorter")
        value = inner[item]
    if value.is_valid and hasattr(value, "keys"):
        value = value["bytes"]
    return value.as_buffer() if value.is_valid else None


def _path_of(path: str) -> str:
    match = _REFERENCE.match(path)
    return path[match.end() :] if match else path


def _reject(reason: str, message: str) -> NoReturn:
    raise ImageError(message, reason=reason)
