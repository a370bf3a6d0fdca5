"""The records of a source file, checked as convert checks them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ...errors import ImageError, NevaPrepError, RecordError
from ...loaders.image_header import PIXEL_LIMIT, read_header
from ...loaders.turns import check_placeholders, check_turns
from ..source import Source
from ..stores.store import ImageStore, read_image
from .item import Item, LeftOut, Picture

TASK_RECORDS = 4096
TASK_BYTES = 8 << 20
_HEADERS_KEPT = 65_536
"""Images often repeat; so many are not read twice."""


@dataclass(frozen=True, slots=True)
class SourceTask:
    """Some records of a source, one after another."""

    first: int
    """Index of the first one."""
    offsets: array[int]
    lengths: array[int]

    @property
    def num_bytes(self) -> int:
        """Of all of them."""
        return sum(self.lengths)


def source_tasks(source: Source) -> Iterator[SourceTask]:
    """Cut a source into pieces of work, in order.

    Raises:
        RecordError: the source as a whole is broken; the message names the byte.
    """
    first, size = 0, 0
    offsets, lengths = array("Q"), array("Q")
    for offset, length in source.spans():
        offsets.append(offset)
        lengths.append(length)
        size += length
        if len(offsets) == TASK_RECORDS or size > TASK_BYTES:
            yield SourceTask(first, offsets, lengths)
            first, size = first + len(offsets), 0
            offsets, lengths = array("Q"), array("Q")
    if offsets:
        yield SourceTask(first, offsets, lengths)


class SourceReader:
    """Reads records of a source, and their images where a folder of them is given."""

    def __init__(self, source: Source, images: ImageStore | None) -> None:
        self._source = source
        self._read = source.reader()
        self._folder = images
        self._look = lru_cache(maxsize=_HEADERS_KEPT)(self._look_at)

    def read(self, task: SourceTask) -> Iterator[Item | LeftOut]:
        """The records of a task, each of them, with those that convert would reject left out."""
        data = self._source.data
        for number, (offset, length) in enumerate(zip(task.offsets, task.lengths, strict=True)):
            key = f"record {task.first + number}"
            try:
                yield self._item(key, offset, data[offset : offset + length])
            except (RecordError, ImageError) as error:
                yield LeftOut(error.reason, f"{self._source.name}: {key}: {error}")

    def _item(self, key: str, offset: int, raw: bytes) -> Item:
        record = self._read(raw).record
        check_placeholders(len(record.images), check_turns(record.turns), insert=False)
        pictures = [self._picture(path) for path in record.images]
        return Item(key, offset, len(raw), record.turns, pictures)

    def _picture(self, path: str) -> Picture:
        if self._folder is None:
            return Picture(path, path.rpartition(".")[2].lower())
        found = self._look(path)
        if isinstance(found, NevaPrepError):
            # Without what earlier raising has hung on to it.
            raise found.with_traceback(None)
        return found

    def _look_at(self, path: str) -> Picture | ImageError:
        """What an image is; an error is given back, so that it too is kept."""
        assert self._folder is not None
        try:
            content = read_image(self._folder, path)
            try:
                header = read_header(content, pixel_limit=PIXEL_LIMIT)
            except ImageError as error:
                return ImageError(f"image {path!r} {error}", reason=error.reason)
        except ImageError as error:
            return error
        return Picture(path, header.extension, header.width, header.height, len(content))
