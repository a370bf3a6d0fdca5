"""Planning: which record goes to which shard, before anything is written.

A plan row has 24 bytes a record; rows lie in shard order, so that a shard is a slice of the plan
and can be written by itself, anywhere. Planning looks at sizes of images, never into them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from ..errors import RecordError, ShardError
from .files import told, write_file
from .layouts import layout_of
from .options import ConvertOptions
from .readers.form import LLAVA, ReadRecord
from .source import Source
from .stores.store import ImageStore

ROW = np.dtype([("ordinal", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("blocks", "<u4")])
BLOCK_BYTES = 512
_ARCHIVE_END_BLOCKS = 20
_PROGRESS_EVERY = 4096


class ShardPlan(msgspec.Struct, frozen=True):
    """One shard to write: a slice of the plan's rows."""

    name: str
    split: str
    start: int
    stop: int


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """What was left out of a source on purpose, in figures."""

    filtered: dict[str, int] = {}
    """Records, by the expression or the option that they did not pass."""
    warnings: dict[str, int] = {}
    warning_examples: dict[str, list[str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All shards to write, and what was seen of the source as a whole."""

    shards: list[ShardPlan]
    records: int
    """Of the source, those that were left out too."""
    images: int
    bytes: int
    """Of the shards, estimated: what will be rejected counts."""
    duplicate_ids: int
    duplicate_examples: list[str]
    repeated_images: int
    empty_splits: list[str]
    chosen: Chosen = field(default_factory=Chosen)


class _Head(msgspec.Struct):
    id: str | int | float | None = None
    image: str | list[str] | None = None
    images: str | list[str] | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


@dataclass(slots=True)
class _Columns:
    offset: array[int]
    length: array[int]
    blocks: array[int]
    split: array[int]
    id_hash: array[int]
    image_hash: array[int]


def make_plan(
    source: Source,
    images: ImageStore,
    options: ConvertOptions,
    rows_path: Path,
    *,
    ordinals: np.ndarray | None = None,
    keep: np.ndarray | None = None,
    first_number: dict[str, int] | None = None,
    progress: Callable[[int], None] = lambda records: None,
) -> Plan:
    """Plan a conversion.

    Args:
        source: the source.
        images: where its images lie.
        options: sizes, splits and order.
        rows_path: file for the plan's rows; see `read_rows`.
        ordinals: uint64[records], each record's index in the original source; None for 0, 1, 2, ….
        keep: bool[records], which to plan; None for all.
        first_number: split -> number of its first shard, where earlier shards exist.
        progress: called now and then with the number of records seen.

    Raises:
        RecordError: the source as a whole is broken or holds no record.
        ShardError: the disk refuses.
    """
    columns = _scan(source, images, options, keep, progress)
    count = len(columns.offset) if keep is None else len(keep)
    if not count:
        raise RecordError(f"{source.path}: the list is empty; there is nothing to convert")
    split = np.asarray(columns.split)
    blocks = np.asarray(columns.blocks)
    if ordinals is None:
        ordinals = np.arange(count, dtype=np.uint64)
    if keep is not None:
        ordinals = ordinals[keep]
    order = _order(ordinals, options.shuffle)
    shards, at, empty, rows = [], 0, [], []
    for number, name in enumerate(options.split):
        chosen = order[split[order] == number]
        if not len(chosen):
            empty.append(name)
            continue
        part = np.empty(len(chosen), ROW)
        part["ordinal"] = ordinals[chosen]
        part["offset"] = np.asarray(columns.offset)[chosen]
        part["length"] = np.asarray(columns.length)[chosen]
        part["blocks"] = blocks[chosen]
        rows.append(part)
        first = (first_number or {}).get(name, 0)
        shards += [
            ShardPlan(f"{name}-{first + i:06d}.tar", name, at + start, at + stop)
            for i, (start, stop) in enumerate(_cut(blocks[chosen], options))
        ]
        at += len(chosen)
    write_file(rows_path, *(part.view(np.uint8).data for part in rows))
    ids = np.asarray(columns.id_hash)
    duplicates, examples = _duplicates(ids, ordinals)
    return Plan(
        shards=sorted(shards, key=lambda shard: shard.name),
        records=count,
        images=len(columns.image_hash),
        bytes=int(blocks.sum(dtype=np.uint64)) * BLOCK_BYTES,
        duplicate_ids=duplicates,
        duplicate_examples=examples,
        repeated_images=_repeats(np.asarray(columns.image_hash)),
        empty_splits=empty,
    )


def read_rows(path: Path, shard: ShardPlan) -> np.ndarray:
    """The rows of one shard, `ROW[records]`.

    Raises:
        ShardError: the disk refuses, or the file is not whole.
    """
    # Not mapped: a disk that fails would end the process instead of raising.
    with told(path, "read"):
        offset = shard.start * ROW.itemsize
        rows = np.fromfile(path, ROW, count=shard.stop - shard.start, offset=offset)
    if len(rows) != shard.stop - shard.start:
        raise ShardError(f"{path}: is cut off; start again with --overwrite")
    return rows


def _scan(
    source: Source,
    images: ImageStore,
    options: ConvertOptions,
    keep: np.ndarray | None,
    progress: Callable[[int], None],
) -> _Columns:
    """One pass over the source: where each record is, how big it gets, and its split."""
    columns = _Columns(array("Q"), array("I"), array("I"), array("B"), array("Q"), array("Q"))
    bounds = _split_bounds(options.split.values())
    copies = 2 if layout_of(options.layout).has_fields else 1
    hashed, size_of = xxhash.xxh3_64_intdigest, images.size
    data = memoryview(source.data)
    read_head = _read_head if source.form == LLAVA else partial(_read_whole, source.reader())
    for ordinal, (offset, length) in enumerate(islice(source.spans(), options.limit)):
        if ordinal % _PROGRESS_EVERY == 0:
            progress(ordinal)
        if keep is not None and not keep[ordinal]:
            continue
        raw = data[offset : offset + length]
        head = read_head(raw)
        if head.id is None:
            # The text decides the split; the ordinal keeps it from looking like a duplicate.
            share, id_hash = hashed(raw), hashed(b"\0%d" % ordinal)
        else:
            share = id_hash = hashed(str(head.id).encode())
        blocks = 2 + (copies * length + 64) // BLOCK_BYTES
        for path in _paths(head):
            blocks += 2 + size_of(path) // BLOCK_BYTES
            columns.image_hash.append(hashed(path.encode()))
        columns.offset.append(offset)
        columns.length.append(length)
        columns.blocks.append(blocks if blocks < 1 << 32 else (1 << 32) - 1)
        columns.split.append(bisect_right(bounds, share))
        columns.id_hash.append(id_hash)
    return columns


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


def _order(ordinals: np.ndarray, seed: int | None) -> np.ndarray:
    """Order of the records: as in the source, or by a hash of seed and ordinal (splitmix64)."""
    if seed is None:
        return np.arange(len(ordinals), dtype=np.intp)
    with np.errstate(over="ignore"):
        x = ordinals + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return np.argsort(x, kind="stable")


def _cut(blocks: np.ndarray, options: ConvertOptions) -> Iterator[tuple[int, int]]:
    """Slices of records that make one shard each: by bytes and by count."""
    total = np.cumsum(blocks, dtype=np.uint64)
    room = np.uint64(max(1, options.shard_size_bytes // BLOCK_BYTES - _ARCHIVE_END_BLOCKS))
    start = 0
    while start < len(total):
        before = total[start - 1] if start else np.uint64(0)
        stop = int(np.searchsorted(total, before + room, side="right"))
        stop = min(max(stop, start + 1), start + options.shard_count, len(total))
        yield start, stop
        start = stop


def _repeats(hashes: np.ndarray) -> int:
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def _duplicates(hashes: np.ndarray, ordinals: np.ndarray) -> tuple[int, list[str]]:
    """How many records share an id with an earlier one, and which ones, for three ids."""
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    examples = []
    for value in np.unique(again)[:3]:
        where = ordinals[np.flatnonzero(hashes == value)[:4]]
        examples.append("records " + ", ".join(str(ordinal) for ordinal in where))
    return len(again), examples
