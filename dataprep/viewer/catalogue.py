"""The catalogue: a temporary SQLite file of all samples, filled in the background.

Pages are answered from it, so that no shard is read to search, filter, sort or count.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import NevaPrepError
from ..look.stops import Flow
from .query import Query
from .rows import read_rows, row_of
from .tables import TABLES, Card, add_rejected, add_rows, card_of, set_tokens

FIRST_ROWS = 200
"""Noted before anything else, so that the first page need not wait."""
HEAD_START_SECONDS = 0.5
"""That a large catalogue waits once the first rows are noted."""
FIRST_WAIT_SECONDS = 0.5
"""That a page waits for them; then it reads its samples itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the catalogue is."""

    total: int
    rows: int
    """Samples noted."""
    tokenized: int | None
    """Samples tokenized; None where there is no tokenizer."""
    error: str | None
    """Why it goes no further."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is missing, or nothing more will come."""
        return self.error is not None or min(self.rows, self._wanted) >= self.total

    @property
    def _wanted(self) -> int:
        return self.total if self.tokenized is None else self.tokenized

    def covers(self, query: Query) -> bool:
        """Whether a query can be answered in full."""
        done = self.rows >= self.total
        return done and (not query.needs_tokens or self._wanted >= self.total)


class Catalogue:
    """All samples in a temporary file; any thread may ask while it is being filled."""

    def __init__(self, flow: Flow) -> None:
        """Make an empty one; `start` fills it, `close` removes it."""
        self._looked, self._flow = flow.looked, flow
        self.total = len(self._looked)
        self._folder = Path(tempfile.mkdtemp(prefix="neva-prep-"))
        self._file = self._folder / "catalogue.sqlite"
        self._rows = 0
        self._tokenized = 0 if flow.has_tokens else None
        self._error: str | None = None
        self._closing = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="catalogue", daemon=True)
        with closing(self._open()) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(TABLES)

    def start(self) -> None:
        """Fill it, in the background."""
        self._thread.start()

    def close(self) -> None:
        """Stop filling, and remove the file."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            total=self.total, rows=self._rows, tokenized=self._tokenized, error=self._error
        )

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is complete, or for so long; whether it is."""
        self._thread.join(seconds)
        return self.progress.is_done

    def cards(self, query: Query, start: int, count: int) -> list[Card]:
        """Samples of a query, from its `start`-th on, as far as they are noted.

        Without a filter they are there at once: those that are not noted are read.
        """
        if query.is_all:
            self._first.wait(FIRST_WAIT_SECONDS)
            condition, values = "n >= ? AND n < ?", [start, start + count]
            limit: list[Any] = [count, 0]
        else:
            condition, values = query.where()
            limit = [count, start]
        rows = self._select(
            "SELECT n, id, split, images, turns, chars, head, reason, is_named, length, trained,"
            f" fault FROM samples WHERE {condition} ORDER BY {query.order()} LIMIT ? OFFSET ?",
            [*values, *limit],
        )
        cards = [
            Card(**dict(zip(Card.__slots__, row, strict=True)))  # Columns are named as its fields.
            for row in rows
        ]
        if query.is_all and not cards:
            # The catalogue is not there yet: this page is read from the shards.
            page = range(start, min(start + count, self.total))
            return [card_of(row_of(self._looked, index)) for index in page]
        return cards

    def count(self, query: Query) -> int:
        """How many samples a query has, as far as they are noted."""
        if query.is_all:
            return self.total
        condition, values = query.where()
        return int(self._select(f"SELECT COUNT(*) FROM samples WHERE {condition}", values)[0][0])

    def neighbours(self, query: Query, n: int) -> tuple[int | None, int | None]:
        """The samples before and after one in the list of a query."""
        if query.is_all:
            return (n - 1 if n else None), (n + 1 if n + 1 < self.total else None)
        found: list[int | None] = []
        for forward in (False, True):
            condition, values = query.where()
            beyond, order = query.beyond(forward=forward)
            numbered = beyond.replace(":n", "?")
            rows = self._select(
                f"SELECT n FROM samples WHERE {condition} AND {numbered} ORDER BY {order} LIMIT 1",
                [*values, *[n] * numbered.count("?")],
            )
            found.append(rows[0][0] if rows else None)
        return found[0], found[1]

    @property
    def num_rejected(self) -> int:
        """How many records are known to be rejected."""
        return int(self._select("SELECT COUNT(*) FROM rejected", [])[0][0])

    def reasons(self) -> list[tuple[str, int]]:
        """Reason codes of what is rejected, and how often; the most frequent first."""
        return self._select(
            "SELECT reason, COUNT(*) FROM rejected GROUP BY reason ORDER BY 2 DESC, 1", []
        )

    def rejected(self, reason: str, start: int, count: int) -> list[int]:
        """Numbers of what is rejected, for one reason or, where it is empty, for any."""
        condition, values = ("reason = ?", [reason]) if reason else ("1", [])
        rows = self._select(
            f"SELECT n FROM rejected WHERE {condition} ORDER BY n LIMIT ? OFFSET ?",
            [*values, count, start],
        )
        return [n for (n,) in rows]

    def _select(self, query: str, values: list[Any]) -> list[Any]:
        with closing(self._open()) as database:
            return database.execute(query, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, isolation_level=None, timeout=30)
        database.execute("PRAGMA synchronous = OFF")
        return database

    # filling

    def _fill(self) -> None:
        try:
            with closing(self._open()) as database:
                self._note_rows(database)
                self._note_rejected(database)
                if self._tokenized is not None:
                    self._note_tokens(database)
        except (NevaPrepError, OSError, sqlite3.Error) as error:
            self._error = str(error)
            logging.getLogger(__name__).warning("the catalogue stops: %s", error)
        finally:
            self._first.set()
            if not self.progress.is_done:
                self._error = "it stopped before its end; the terminal says why"

    def _note_rows(self, database: sqlite3.Connection) -> None:
        for rows in self._parts(read_rows(self._looked)):
            if self._rows == FIRST_ROWS:
                # The first page comes first: both would share one interpreter.
                self._closing.wait(HEAD_START_SECONDS)
            add_rows(database, rows)
            self._rows += len(rows)
            self._first.set()
        # Samples without a record have no row: they are counted as seen.
        self._rows = self.total

    def _note_rejected(self, database: sqlite3.Connection) -> None:
        if self._looked.kind == "source":
            database.execute(
                "INSERT INTO rejected SELECT n, reason FROM samples WHERE reason NOT NULL"
            )
            return
        for views in self._parts(enumerate(self._looked.quarantined())):
            add_rejected(database, views)

    def _note_tokens(self, database: sqlite3.Connection) -> None:
        for part in self._parts(range(self.total), size=50):
            set_tokens(database, [(*self._flow.measure(n), n) for n in part])
            assert self._tokenized is not None
            self._tokenized += len(part)

    def _parts(self, items: Iterable[Any], size: int = 1000) -> Iterator[list[Any]]:
        """Items in portions, the first ones soon, until the catalogue is closed."""
        stream = iter(items)
        part = list(islice(stream, min(size, FIRST_ROWS)))
        while part and not self._closing.is_set():
            yield part
            part = list(islice(stream, size))
