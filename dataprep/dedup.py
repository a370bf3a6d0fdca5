"""`--dedup`: which records repeat an earlier one, from a few bytes that are kept of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import xxhash

from ..loaders.turns import Turn
from .perceptual import first_alike
from .pictures import Pictures

_SORTED_AT_ONCE = 1_000_000
By = Literal["record", "images"]
MARK = np.dtype(
    [("row", "<u8"), ("high", "<u8"), ("low", "<u8"), ("group", "<u8"), ("looks", "<u4")]
)
"""What is kept of a record: its number, 128 bits of all that must be the same in an exact
repetition, what two that look alike must share, and how many looks it has."""


class Mark(NamedTuple):
    """A record as `MARK` holds it, without its place."""

    high: int
    low: int
    group: int
    looks: tuple[int, ...]
    """Of its images; empty where one of them looks like nothing, or files are compared alone."""


def mark_of(turns: Sequence[Turn], pictures: Pictures, *, by: By, with_looks: bool) -> Mark | None:
    """What is kept of a record; None where it can repeat none.

    Args:
        turns: its conversation.
        pictures: its images.
        by: `record` where texts must be the same too, `images` where images alone count.
        with_looks: whether images that look alike are the same.

    Raises:
        ImageError: one of its images is to be rejected.
    """
    if by == "images" and not pictures.paths:
        return None
    texts = xxhash.xxh3_128()
    if by == "record":
        for turn in turns:
            for text in (turn.role.encode(), turn.value.encode()):
                texts.update(b"%d:%b" % (len(text), text))
    texts.update(b"images:%d" % len(pictures.paths))
    group = xxhash.xxh3_64_intdigest(texts.digest())
    texts.update(b"".join(pictures.digests))
    whole = texts.intdigest()
    looks = pictures.looks if with_looks else []
    known = tuple(look for look in looks if look is not None)
    return Mark(whole >> 64, whole & (2**64 - 1), group, known if len(known) == len(looks) else ())


class Repeats(NamedTuple):
    """Records that repeat earlier ones, in the order of the source."""

    removed: np.ndarray
    """int64[pairs]: numbers of records."""
    kept: np.ndarray
    """int64[pairs]: the first record of each kind, which stays."""
    bits: np.ndarray
    """uint8[pairs]: in which images that look alike differ; 0 where files are the same."""
    is_exact: np.ndarray
    """bool[pairs]"""


def find_repeats(marks: np.ndarray, looks: np.ndarray, radius: int | None, work: Path) -> Repeats:
    """Find records that repeat an earlier one; of each kind the first stays.

    Args:
        marks: MARK[records], in the order of the source.
        looks: uint64[images], those of all records.
        radius: bits in which images that look alike may differ; None to compare files alone.
        work: folder for tables.
    """
    kept = _first_same(marks)
    is_exact, bits = kept >= 0, np.zeros(len(marks), np.uint8)
    if radius is not None:
        ends = np.cumsum(marks["looks"], dtype=np.int64)
        items = np.flatnonzero((kept < 0) & (marks["looks"] > 0))
        _, group, sizes = np.unique(marks["group"][items], return_inverse=True, return_counts=True)
        items = items[sizes[group] > 1]
        counts = marks["looks"][items].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)])
        where = np.repeat(ends[items] - counts - starts[:-1], counts) + np.arange(starts[-1])
        alike, apart = first_alike(looks[where], starts, marks["group"][items], radius, work)
        is_alike = alike >= 0
        kept[items[is_alike]] = items[alike[is_alike]]
        bits[items] = apart
        # What an exact repetition repeats may itself look like an earlier record, which stays.
        again = np.flatnonzero(is_exact)
        again = again[kept[kept[again]] >= 0]
        bits[again], is_exact[again] = bits[kept[again]], False
        kept[again] = kept[kept[again]]
    removed = np.flatnonzero(kept >= 0)
    numbers = marks["row"].astype(np.int64)
    return Repeats(numbers[removed], numbers[kept[removed]], bits[removed], is_exact[removed])


def _first_same(marks: np.ndarray) -> np.ndarray:
    """For each record the first one with the same 128 bits, or -1 where it is the first."""
    kept = np.full(len(marks), -1, np.int64)
    # A part at a time: to sort all at once takes as much memory again as the marks.
    parts = max(1, len(marks) // _SORTED_AT_ONCE)
    for part in range(parts):
        rows = np.flatnonzero(marks["high"] % np.uint64(parts) == part)
        same = _same(marks["high"][rows], marks["low"][rows])
        kept[rows[same >= 0]] = rows[same[same >= 0]]
    return kept


def _same(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    order = np.lexsort((low, high))
    is_new = np.ones(len(order), bool)
    is_new[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
    first = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
    kept = np.empty(len(order), np.int64)
    kept[order] = np.where(is_new, -1, order[first])
    return kept
