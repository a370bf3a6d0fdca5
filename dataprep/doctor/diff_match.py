"""Which row of one side is which of the other: by id, and where that cannot tell, by content.

A row is 43 bytes here, so that millions of them can be compared.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from .diff_row import Named, Row, pack

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
# Odd numbers without a pattern: sums of hashes times these are hashes again.
_MIX = np.array(
    [
        [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F],
        [0xBF58476D1CE4E5B9, 0x165667B19E3779F9],
        [0x94D049BB133111EB, 0x27D4EB2F165667C5],
    ],
    dtype=np.uint64,
)
_MASK = (1 << 64) - 1


class Columns:
    """Hashes of the rows of one side, as they are read."""

    def __init__(self) -> None:
        self._ids, self._parts = array("Q"), array("Q")
        self._named, self._split = array("B"), array("H")
        self.splits: list[str] = []
        """Names of the splits, by their number from 1; 0 stands for none."""

    def add(self, row: Row) -> None:
        """Take in a row."""
        identity = xxhash.xxh3_128_intdigest((row.id or "").encode("utf-8", "surrogatepass"))
        self._ids.extend((identity & _MASK, identity >> 64))
        self._named.append(Named.NOT if row.id is None else row.named)
        self._parts.extend(
            (
                xxhash.xxh3_64_intdigest(pack([[turn.role, turn.value] for turn in row.turns])),
                xxhash.xxh3_64_intdigest(b"".join(image.hash for image in row.images)),
                xxhash.xxh3_64_intdigest(pack(row.fields)),
            )
        )
        if row.split is not None and row.split not in self.splits:
            self.splits.append(row.split)
        self._split.append(0 if row.split is None else 1 + self.splits.index(row.split))

    def table(self) -> Table:
        """All rows."""
        return Table(
            ids=np.asarray(self._ids, np.uint64).reshape(-1, 2),
            named=np.asarray(self._named, np.uint8),
            parts=np.asarray(self._parts, np.uint64).reshape(-1, 3),
            split=np.asarray(self._split, np.uint16),
            splits=("", *self.splits),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of one side."""

    ids: Hashes
    """uint64[rows, 2]"""
    named: npt.NDArray[np.uint8]
    """`Named`."""
    parts: Hashes
    """uint64[rows, 3]: of the turns, the images, the other fields."""
    split: npt.NDArray[np.uint16]
    splits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.split)

    @property
    def has_id(self) -> npt.NDArray[np.bool_]:
        """bool[rows]: whether it is known by its id."""
        return self.named >= Named.AS_KEY

    def content(self, rows: Places) -> Hashes:
        """uint64[rows, 2]: of all that a row says, its id left out."""
        with np.errstate(over="ignore"):
            mixed: Hashes = self.parts[rows] @ _MIX
        return mixed

    def content_and_id(self, rows: Places) -> Hashes:
        """uint64[rows, 2]: of all that a row says."""
        with np.errstate(over="ignore"):
            mixed: Hashes = self.content(rows) + self.ids[rows] * _MIX[0]
        return mixed


class Pairs(NamedTuple):
    """Rows that belong together; both int64[pairs]."""

    a: Places
    b: Places

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """How the rows of two sides belong together."""

    pairs: Pairs
    """In the order of the first side."""
    by: dict[str, int]
    """`id`, `repeated_id`, `content` -> rows that were matched so."""
    removed: Places
    """Rows of the first side without a partner."""
    added: Places
    """Rows of the second side without one."""


def match(a: Table, b: Table) -> Matches:
    """Match the rows of two sides.

    First rows with the same id and content, then those with the same id (the first with the first
    where an id repeats), then the rest by content alone.
    """
    rest_a, rest_b = np.flatnonzero(a.has_id), np.flatnonzero(b.has_id)
    repeated = _repeated(a.ids[rest_a]), _repeated(b.ids[rest_b])
    same = _pair(a.content_and_id(rest_a), b.content_and_id(rest_b))
    by_id = [Pairs(rest_a[same.a], rest_b[same.b])]
    rest_a, rest_b = np.delete(rest_a, same.a), np.delete(rest_b, same.b)
    changed = _pair(a.ids[rest_a], b.ids[rest_b])
    by_id.append(Pairs(rest_a[changed.a], rest_b[changed.b]))
    known = _join(by_id)
    left_a = np.delete(np.arange(len(a)), known.a)
    left_b = np.delete(np.arange(len(b)), known.b)
    alike = _pair(a.content(left_a), b.content(left_b))
    by_content = Pairs(left_a[alike.a], left_b[alike.b])
    pairs = _join([known, by_content])
    several = _marks(len(a), np.flatnonzero(a.has_id)[repeated[0]])[known.a]
    several |= _marks(len(b), np.flatnonzero(b.has_id)[repeated[1]])[known.b]
    counts = {
        "id": int(len(known) - several.sum()),
        "repeated_id": int(several.sum()),
        "content": len(by_content),
    }
    order = np.argsort(pairs.a, kind="stable")
    return Matches(
        pairs=Pairs(pairs.a[order], pairs.b[order]),
        by=counts,
        removed=np.delete(left_a, alike.a),
        added=np.delete(left_b, alike.b),
    )


def changes(a: Table, b: Table, pairs: Pairs) -> dict[str, npt.NDArray[np.bool_]]:
    """What differs in each pair: `text`, `images`, `fields`, `id`; bool[pairs] each."""
    differ = a.parts[pairs.a] != b.parts[pairs.b]
    ids = (a.ids[pairs.a] != b.ids[pairs.b]).any(axis=1)
    ids |= (a.named[pairs.a] == Named.NOT) != (b.named[pairs.b] == Named.NOT)
    # One that is the key of its record's index may stand for none.
    ids &= (a.named[pairs.a] == Named.ITSELF) | (b.named[pairs.b] == Named.ITSELF)
    return {"text": differ[:, 0], "images": differ[:, 1], "fields": differ[:, 2], "id": ids}


def moves(
    a: Table, b: Table, pairs: Pairs
) -> tuple[npt.NDArray[np.bool_], Counter[tuple[str, str]]]:
    """Which pairs changed their split, and from where to where how many did."""
    names = sorted({*a.splits, *b.splits})
    numbers = {name: number for number, name in enumerate(names)}
    left = np.array([numbers[name] for name in a.splits])[a.split[pairs.a]]
    right = np.array([numbers[name] for name in b.splits])[b.split[pairs.b]]
    # A source has no splits: there is nothing to move from.
    moved = (left != right) & (a.split[pairs.a] > 0) & (b.split[pairs.b] > 0)
    codes, counts = np.unique(left[moved] * len(names) + right[moved], return_counts=True)
    told = {
        (names[code // len(names)], names[code % len(names)]): int(count)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True)
    }
    return moved, Counter(told)


def _pair(a: Hashes, b: Hashes) -> Pairs:
    """The first row with a hash with the other side's first, the second with the second..."""
    if not len(a) or not len(b):
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64))
    both = np.concatenate([a, b])
    # Stable: of equal hashes the first side's rows come first, each side's in its order.
    order = np.lexsort((both[:, 1], both[:, 0]))
    ordered = both[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.cumsum(begins) - 1
    start = np.flatnonzero(begins)
    is_b = order >= len(a)
    in_a = np.bincount(group, weights=~is_b, minlength=len(start)).astype(np.int64)
    at = np.flatnonzero(is_b)
    rank = at - start[group[at]] - in_a[group[at]]
    has_partner = rank < in_a[group[at]]
    at, rank = at[has_partner], rank[has_partner]
    return Pairs(order[start[group[at]] + rank], order[at] - len(a))


def _repeated(ids: Hashes) -> npt.NDArray[np.bool_]:
    """Which ids occur more than once."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    same = (ids[order][1:] == ids[order][:-1]).all(axis=1)
    marks = np.zeros(len(ids), bool)
    marks[order[1:][same]] = True
    marks[order[:-1][same]] = True
    return marks


def _marks(length: int, places: Places) -> npt.NDArray[np.bool_]:
    marks = np.zeros(length, bool)
    marks[places] = True
    return marks


def _join(parts: list[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
