"""The tables of the catalogue, and what is written into them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..look.view import RecordView
from .query import fold
from .rows import Row

TABLES = """
    CREATE TABLE samples (
        n INTEGER PRIMARY KEY, id TEXT, split TEXT, images INTEGER, turns INTEGER, chars INTEGER,
        head TEXT, reason TEXT, is_named INTEGER, length INTEGER, trained INTEGER, fault TEXT);
    CREATE TABLE texts (n INTEGER PRIMARY KEY, folded TEXT);
    CREATE TABLE rejected (n INTEGER PRIMARY KEY, reason TEXT);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A sample in the list."""

    n: int
    id: str
    split: str
    images: int
    turns: int
    chars: int
    head: str
    reason: str | None
    is_named: bool
    """Whether it has an id; else its key stands for it."""
    length: int | None
    """Positions in the model; None where that is not known, or not yet."""
    trained: int | None
    fault: str | None
    """Reason code of why training would skip it."""


def add_rows(database: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Note samples, and their texts as they are searched."""
    rows = list(rows)
    cards = [card_of(row) for row in rows]
    with database:
        database.execute("BEGIN")
        database.executemany(
            "INSERT OR REPLACE INTO samples"
            " (n, id, split, images, turns, chars, head, reason, is_named)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (c.n, c.id, c.split, c.images, c.turns, c.chars, c.head, c.reason, c.is_named)
                for c in cards
            ],
        )
        database.executemany(
            "INSERT OR REPLACE INTO texts VALUES (?, ?)",
            [(row.n, fold(f"{row.id}\n{row.text}")) for row in rows],
        )


def add_rejected(database: sqlite3.Connection, views: Iterable[tuple[int, RecordView]]) -> None:
    """Note rejected records, by their numbers."""
    with database:
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO rejected VALUES (?, ?)",
            [(n, view.findings[0].reason) for n, view in views if view.findings],
        )


def set_tokens(
    database: sqlite3.Connection,
    found: Sequence[tuple[int | None, int | None, str | None, int]],
) -> None:
    """Note positions, trained tokens and faults of samples, whose numbers come last."""
    with database:
        database.execute("BEGIN")
        database.executemany(
            "UPDATE samples SET length = ?, trained = ?, fault = ? WHERE n = ?", found
        )


def card_of(row: Row) -> Card:
    """A sample in the list, before it is tokenized."""
    return Card(
        n=row.n,
        id=_sound(row.id),
        split=row.split,
        images=row.images,
        turns=row.turns,
        chars=len(row.text),
        head=_sound(row.head),
        reason=row.reason,
        is_named=row.is_named,
        length=None,
        trained=None,
        fault=None,
    )


def _sound(text: str) -> str:
    """Text that SQLite takes: half of a surrogate pair becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
