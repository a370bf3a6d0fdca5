"""One pass over a source: where each record lies, how large its sample gets, and its split.

What is found goes to files of the disk, not to memory: 25 bytes a record and 8 an image.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import numpy as np
import xxhash

from ..errors import RecordError
from .files import told
from .layouts import layout_of
from .options import ConvertOptions
from .processes import begin_worker, interrupts_held, start_context
from .readers.form import LLAVA, ReadRecord
from .source import Source
from .stores.store import ImageStore
from .tar import BLOCK_BYTES

SCANNED = np.dtype(
    [("offset", "<u8"), ("id_hash", "<u8"), ("length", "<u4"), ("blocks", "<u4"), ("split", "u1")]
)
_CHUNK = 8192
_RECORD_BYTES, _FORM_BYTES = 64, 320
"""What a sample's JSON has more than its record: a list of images and an id; or a conversation."""
_IMAGE_BYTES = 80
"""What it has more for each image, beside the path: its name, its size, and a placeholder."""
_POOL_BYTES = 64 << 20
"""Of a source that is worth the start of other processes."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a pass found."""

    records: np.ndarray
    """SCANNED[records], mapped from the disk."""
    image_hashes: np.ndarray
    """uint64[images]: of their paths, mapped from the disk."""
    seen: int
    """Records of the source, those that were left out too."""


class _Head(msgspec.Struct):
    id: str | int | float | None = None
    image: str | list[str] | None = None
    images: str | list[str] | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


class _Chunk(NamedTuple):
    """Some records of a source."""

    ordinals: Sequence[int]
    offsets: array[int]
    lengths: array[int]


def scan(
    source: Source,
    images: ImageStore,
    options: ConvertOptions,
    keep: np.ndarray | None,
    rows_path: Path,
    progress: Callable[[int], None],
) -> Scanned:
    """Look at every record that is kept, in order.

    Args:
        source: the source.
        images: where its images lie.
        options: what decides sizes and splits, and the number of processes.
        keep: bool[records], or None for all.
        rows_path: of the plan; what is found goes to files without a name beside it.
        progress: called now and then with the number of records seen.

    Raises:
        RecordError: the source as a whole is broken.
        ShardError: the disk refuses.
    """
    look = _Look(source, images, options)
    seen = 0

    def chunks() -> Iterator[_Chunk]:
        nonlocal seen
        spans = islice(source.spans(), options.limit)
        while part := list(islice(spans, _CHUNK)):
            progress(seen)
            first, seen = seen, seen + len(part)
            numbers: Sequence[int] = range(first, seen)
            if keep is not None:
                kept = keep[first:seen].tolist()
                numbers, part = list(compress(numbers, kept)), list(compress(part, kept))
            offsets = array("Q", [offset for offset, _ in part])
            yield _Chunk(numbers, offsets, array("I", [length for _, length in part]))

    with (
        told(rows_path),
        tempfile.TemporaryFile(dir=rows_path.parent) as rows,
        tempfile.TemporaryFile(dir=rows_path.parent) as hashes,
    ):
        for found in _looked_at(look, chunks()):
            rows.write(found[0])
            hashes.write(found[1])
        return Scanned(_mapped(rows, SCANNED), _mapped(hashes, np.dtype("<u8")), seen)


class _Look:
    """Looks at records; one for a process."""

    def __init__(self, source: Source, images: ImageStore, options: ConvertOptions) -> None:
        self.source, self.images, self.options = source, images, options
        self._data = memoryview(source.data)
        self._bounds = _split_bounds(options.split.values())
        self._copies = 2 if layout_of(options.layout).has_fields else 1
        is_plain = source.form == LLAVA or source.has_plain_heads
        self._read = None if is_plain else source.reader()
        self._added = _RECORD_BYTES if source.form == LLAVA else _FORM_BYTES

    def at(self, chunk: _Chunk) -> tuple[bytes, bytes]:
        """SCANNED[records] and uint64[images] of some records, as bytes."""
        hashed, size_of = xxhash.xxh3_64_intdigest, self.images.size
        data, read = self._data, self._read
        blocks, splits, ids, images = array("I"), array("B"), array("Q"), array("Q")
        for ordinal, offset, length in zip(*chunk, strict=True):
            raw = data[offset : offset + length]
            head = _read_head(raw) if read is None else _read_whole(read, raw)
            if head.id is None:
                # The text decides the split; the ordinal keeps it from looking like a duplicate.
                share, id_hash = hashed(_plain(raw)), hashed(b"\0%d" % ordinal)
            else:
                share = id_hash = hashed(str(head.id).encode())
            size, text = 2, self._copies * length + self._added
            for path in _paths(head):
                encoded = path.encode()
                size += 2 + size_of(path) // BLOCK_BYTES
                text += _IMAGE_BYTES + len(encoded)
                images.append(hashed(encoded))
            size += text // BLOCK_BYTES
            blocks.append(size if size < 1 << 32 else (1 << 32) - 1)
            splits.append(bisect_right(self._bounds, share))
            ids.append(id_hash)
        found = np.empty(len(ids), SCANNED)
        columns = (chunk.offsets, ids, chunk.lengths, blocks, splits)
        for name, column in zip(SCANNED.names or (), columns, strict=True):
            found[name] = column
        return found.tobytes(), images.tobytes()


def _looked_at(look: _Look, chunks: Iterable[_Chunk]) -> Iterator[tuple[bytes, bytes]]:
    """What is found in each chunk, in order; by several processes where that is worth it."""
    context, workers = start_context(), look.options.workers
    # Other places of images than a folder hold connections or files that cannot be shared.
    is_plain = os.path.isdir(look.images.root) and context.get_start_method() == "fork"
    if workers == 1 or not is_plain or len(look.source.data) < _POOL_BYTES:
        yield from map(look.at, chunks)
        return
    global _look
    _look = look
    with ProcessPoolExecutor(workers, context, begin_worker, (os.getpid(),)) as pool:
        waiting: deque[Future[tuple[bytes, bytes]]] = deque()
        try:
            for chunk in chunks:
                with interrupts_held():
                    waiting.append(pool.submit(_look_at, chunk))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_look: _Look | None = None
"""Inherited by the processes that are forked."""


def _look_at(chunk: _Chunk) -> tuple[bytes, bytes]:
    assert _look is not None
    return _look.at(chunk)


def _mapped(file: IO[bytes], kind: np.dtype) -> np.ndarray:
    file.flush()
    return np.memmap(file, kind, "r") if file.tell() else np.empty(0, kind)


def _plain(raw: memoryview) -> bytes | memoryview:
    """A record without its spacing and spelling: a quarantine keeps neither of them."""
    try:
        return msgspec.json.encode(msgspec.json.decode(raw))
    except (ValueError, RecursionError):
        return raw


def _read_head(raw: memoryview) -> _Head:
    try:
        return _decode_head(raw)
    except (ValueError, RecursionError):
        # Such a record is judged, and most likely rejected, when its shard is written.
        return _Head()


def _read_whole(read: ReadRecord, raw: memoryview) -> _Head:
    """The same of a record in another form than LLaVA's."""
    try:
        record = read(bytes(raw)).record
    except RecordError:
        return _Head()
    return _Head(id=record.id, image=list(record.images))


def _paths(head: _Head) -> list[str]:
    paths = head.image if head.image is not None else head.images
    return [] if paths is None else [paths] if isinstance(paths, str) else paths


def _split_bounds(shares: Iterable[float]) -> list[int]:
    """Upper bounds of 64-bit hashes, one a split: adding records never moves one to another."""
    edges = np.cumsum(list(shares))
    return [*(int(edge / edges[-1] * 2**64) for edge in edges[:-1]), 2**64]
