"""The front door: two sources, two datasets or one of each, compared row by row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..stats.item import Item, Picture
from .diff_detail import RowChange, compare
from .diff_match import Columns, Table, changes, match, moves
from .diff_row import Named, Row
from .diff_sides import Side, open_side

if TYPE_CHECKING:
    from ..stats.tokens import TokenCounts, Tokenizing

SCHEMA_VERSION = 1
_BATCH = 256
_PROGRESS_EVERY = 64
Progress = Callable[[str, int, int], None]


class SideTotals(msgspec.Struct, kw_only=True):
    """What one side holds."""

    path: str
    kind: str
    """`source` or `dataset`."""
    rows: int = 0
    splits: dict[str, int] = {}
    turns: int = 0
    images: int = 0
    image_bytes: int = 0
    missing_images: int = 0
    """Of a source: files that are not in its image folder."""
    without_id: int = 0
    tokens: int | None = None
    """Of the texts; None without a tokenizer."""
    trained: int | None = None
    """Tokens on which loss is taken."""
    without_tokens: int = 0
    """Rows that the template or the tokenizer refuses."""


class RowName(msgspec.Struct, frozen=True, kw_only=True):
    """A row that only one side has."""

    index: int
    id: str | None
    split: str | None
    text: str
    """How its conversation begins."""


class DiffReport(msgspec.Struct, kw_only=True):
    """How two sides differ."""

    a: SideTotals
    b: SideTotals
    matched_by: dict[str, int] = {}
    """`id`, `repeated_id` (in their order), `content` (id missing or without partner) -> rows."""
    unchanged: int = 0
    changed: int = 0
    removed: int = 0
    added: int = 0
    changed_in: dict[str, int] = {}
    """`text`, `images`, `fields`, `id` -> changed rows; one row can count in several."""
    moved: dict[str, int] = {}
    """`train -> val` -> rows, changed or not."""
    changed_rows: list[RowChange] = []
    """The first of them, and of those that moved; likewise below."""
    removed_rows: list[RowName] = []
    added_rows: list[RowName] = []

    @property
    def is_same(self) -> bool:
        """Whether both say the same, in whatever order."""
        return not (self.changed or self.removed or self.added or self.moved)

    @property
    def exit_code(self) -> int:
        """0 the same, 1 different."""
        return 0 if self.is_same else 1

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        fields = msgspec.to_builtins(self)
        return {"schema_version": SCHEMA_VERSION, "is_same": self.is_same, **fields}


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    images_a: Path | None = None,
    images_b: Path | None = None,
    tokenizing: Tokenizing | None = None,
    limit: int = 20,
    progress: Progress = lambda what, done, total: None,
) -> DiffReport:
    """Compare two sources or datasets.

    Args:
        a: a source file, or the folder or address of a converted dataset.
        b: the other one.
        images_a: image folder of a source; its own folder where it is not given.
        images_b: likewise.
        tokenizing: template and tokenizer, to count tokens.
        limit: how many changed, removed and added rows to show each; all are counted.
        progress: called with a side's name, and how many bytes of how many are read.

    Raises:
        RecordError: a source cannot be read.
        ShardError: a dataset cannot be read.
        ConfigError: no such image folder.
        RemoteError: the service at an address refuses, or cannot be reached.
    """
    side_a, side_b = open_side(a, images_a), open_side(b, images_b)
    report = DiffReport(a=_totals(side_a), b=_totals(side_b))
    table_a = _read(side_a, report.a, tokenizing, progress)
    table_b = _read(side_b, report.b, tokenizing, progress)
    found = match(table_a, table_b)
    differ = changes(table_a, table_b, found.pairs)
    moved, report.moved = _moves(table_a, table_b, found.pairs)
    changed = np.logical_or.reduce(list(differ.values()))
    report.matched_by = found.by
    report.changed = int(changed.sum())
    report.unchanged = len(found.pairs) - report.changed
    report.changed_in = {name: int(marks.sum()) for name, marks in differ.items() if marks.any()}
    report.removed, report.added = len(found.removed), len(found.added)
    for at in np.flatnonzero(changed | moved)[:limit].tolist():
        row_a, row_b = side_a.row(int(found.pairs.a[at])), side_b.row(int(found.pairs.b[at]))
        report.changed_rows.append(compare(row_a, row_b))
    report.removed_rows = [_name(side_a.row(index)) for index in found.removed[:limit].tolist()]
    report.added_rows = [_name(side_b.row(index)) for index in found.added[:limit].tolist()]
    return report


def _moves(a: Table, b: Table, pairs: Any) -> tuple[Any, dict[str, int]]:
    moved, counts = moves(a, b, pairs)
    return moved, {f"{left} -> {right}": count for (left, right), count in sorted(counts.items())}


def _totals(side: Side) -> SideTotals:
    return SideTotals(path=side.name, kind=side.kind)


def _read(
    side: Side, totals: SideTotals, tokenizing: Tokenizing | None, progress: Progress
) -> Table:
    """Read a side once, hash its rows and count what it holds."""
    columns, splits = Columns(), Counter[str]()
    counter = _TokenCounter(tokenizing) if tokenizing else None
    for row, done in side.rows():
        columns.add(row)
        _count(row, totals, splits)
        if counter is not None:
            counter.add(row)
        if row.index % _PROGRESS_EVERY == 0:
            progress(Path(side.name).name, done, side.num_bytes)
    totals.splits = dict(splits)
    if counter is not None:
        counter.finish(totals)
    return columns.table()


def _count(row: Row, totals: SideTotals, splits: Counter[str]) -> None:
    totals.rows += 1
    totals.turns += len(row.turns)
    totals.images += len(row.images)
    totals.image_bytes += sum(len(image.data or b"") for image in row.images)
    totals.missing_images += sum(image.data is None for image in row.images)
    totals.without_id += row.id is None or row.named < Named.AS_KEY
    if row.split is not None:
        splits[row.split] += 1


class _TokenCounter:
    """Counts tokens as `neva-prep stats` does, some rows at a time."""

    def __init__(self, how: Tokenizing) -> None:
        from ..stats.tokens import TokenCounts

        self._how = how
        self._counts: TokenCounts = TokenCounts()
        self._waiting: list[Item] = []

    def add(self, row: Row) -> None:
        # Without the images' bytes, which are not needed and many.
        pictures = [Picture(image.path, "") for image in row.images]
        self._waiting.append(Item(f"record {row.index}", 0, 0, row.turns, pictures))
        if len(self._waiting) == _BATCH:
            self._tokenize()

    def finish(self, totals: SideTotals) -> None:
        self._tokenize()
        text, trained = self._counts.text, self._counts.trained
        totals.tokens = int((text.numbers * text.counts.astype(np.uint64)).sum())
        totals.trained = int((trained.numbers * trained.counts.astype(np.uint64)).sum())
        totals.without_tokens = sum(self._counts.failures.values())

    def _tokenize(self) -> None:
        from ..stats.tokens import count_tokens

        if self._waiting:
            count_tokens(self._counts, self._waiting, self._how)
        self._waiting = []
        self._counts.lengths.clear()  # Only a forecast of packs needs them.


def _name(row: Row) -> RowName:
    text = row.turns[0].value if row.turns else str(row.fields)
    plain = text[:100].encode("utf-8", "backslashreplace").decode()
    identity = row.id and row.id.encode("utf-8", "backslashreplace").decode()
    return RowName(index=row.index, id=identity, split=row.split, text=plain)
