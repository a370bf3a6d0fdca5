"""Planning: which record goes to which shard, before anything is written.

A plan row has 24 bytes a record; rows lie in shard order, so that a shard is a slice of the plan
and can be written by itself, anywhere. What is sorted is held in memory, 8 bytes a record; the rest
lies on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from ..errors import RecordError, ShardError
from .files import told, write_parts
from .options import ConvertOptions
from .scan import scan
from .source import Source
from .stores.store import ImageStore
from .tar import BLOCK_BYTES

ROW = np.dtype([("ordinal", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("blocks", "<u4")])
_ARCHIVE_BLOCKS, _END_BLOCKS = 20, 2
_ROWS_AT_ONCE = 1 << 18


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
    scanned = scan(source, images, options, keep, rows_path, progress)
    if not scanned.seen:
        raise RecordError(f"{source.path}: the list is empty; there is nothing to convert")
    records = scanned.records
    if ordinals is not None or keep is not None:
        ordinals = np.arange(scanned.seen, dtype=np.uint64) if ordinals is None else ordinals
        ordinals = ordinals if keep is None else ordinals[keep]
    shards: list[ShardPlan] = []
    parts, at, empty = [], 0, []
    for name, chosen in _by_split(records["split"], ordinals, options):
        if not len(chosen):
            empty.append(name)
            continue
        parts.append(chosen)
        first = (first_number or {}).get(name, 0)
        shards += [
            ShardPlan(f"{name}-{first + i:06d}.tar", name, at + start, at + stop)
            for i, (start, stop) in enumerate(_cut(records["blocks"][chosen], options))
        ]
        at += len(chosen)
    write_parts(rows_path, _rows(records, parts, ordinals))
    parts.clear()
    duplicates, examples = _duplicates(records["id_hash"], ordinals)
    return Plan(
        shards=sorted(shards, key=lambda shard: shard.name),
        records=scanned.seen,
        images=len(scanned.image_hashes),
        bytes=int(records["blocks"].sum(dtype=np.uint64)) * BLOCK_BYTES,
        duplicate_ids=duplicates,
        duplicate_examples=examples,
        repeated_images=_repeats(scanned.image_hashes),
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


def _by_split(
    split: np.ndarray, ordinals: np.ndarray | None, options: ConvertOptions
) -> Iterator[tuple[str, np.ndarray]]:
    """Each split's name, and the places of its records in the order in which they are written."""
    split = np.array(split)
    order = None
    if options.shuffle is not None:
        order = _shuffled(len(split), ordinals, options.shuffle)
    for number, name in enumerate(options.split):
        if order is None:
            yield name, np.flatnonzero(split == number)
        else:
            yield name, order[split[order] == number]


def _shuffled(count: int, ordinals: np.ndarray | None, seed: int) -> np.ndarray:
    """Places of the records in the order of a hash of seed and ordinal (splitmix64)."""
    x = np.arange(count, dtype=np.uint64) if ordinals is None else ordinals.copy()
    with np.errstate(over="ignore"):
        x += np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return np.argsort(x, kind="stable")


def _rows(
    records: np.ndarray, parts: list[np.ndarray], ordinals: np.ndarray | None
) -> Iterator[memoryview]:
    """The plan's rows, some at a time."""
    for part in parts:
        for at in range(0, len(part), _ROWS_AT_ONCE):
            chosen = part[at : at + _ROWS_AT_ONCE]
            found, rows = records[chosen], np.empty(len(chosen), ROW)
            rows["ordinal"] = chosen if ordinals is None else ordinals[chosen]
            for name in ("offset", "length", "blocks"):
                rows[name] = found[name]
            yield rows.view(np.uint8).data


def _cut(blocks: np.ndarray, options: ConvertOptions) -> Iterator[tuple[int, int]]:
    """Slices of records that make one shard each: by bytes and by count."""
    total = np.cumsum(blocks, dtype=np.uint64)
    # A tar ends with two empty blocks, and is filled up to a multiple of twenty.
    archives = options.shard_size_bytes // BLOCK_BYTES // _ARCHIVE_BLOCKS
    room = np.uint64(max(1, archives * _ARCHIVE_BLOCKS - _END_BLOCKS))
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


def _duplicates(hashes: np.ndarray, ordinals: np.ndarray | None) -> tuple[int, list[str]]:
    """How many records share an id with an earlier one, and which ones, for three ids."""
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    examples = []
    for value in np.unique(again)[:3]:
        places = np.flatnonzero(hashes == value)[:4]
        where = places if ordinals is None else ordinals[places]
        examples.append("records " + ", ".join(str(ordinal) for ordinal in where))
    return len(again), examples
