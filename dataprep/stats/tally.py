"""Counting how often each number occurs, in bounded memory; tallies of parts add up.

Lengths and sizes are counted as they are; texts and paths by their hash, with the place of one of
them, so that the few that are shown can be read again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

MOST_DIFFERENT = 1 << 22
"""Different numbers that are told apart; beyond, the rarest are given up."""
_PENDING = 1 << 16


class Tally:
    """How often each number occurs.

    Counts are exact as long as there are no more different numbers than the bound. Beyond it, all
    counts are lowered together until enough of them vanish (Misra and Gries, "Finding repeated
    elements", 1982): a count is then too low by `error` at most, and what occurs more often than
    that is still there.

    Example:
        >>> tally = Tally()
        >>> tally.add([3, 1, 3])
        >>> tally.numbers.tolist(), tally.counts.tolist()
        ([1, 3], [1, 2])
    """

    def __init__(self, limit: int = MOST_DIFFERENT) -> None:
        self.limit = limit
        self.total = 0
        """Numbers that were added, equal ones included."""
        self._error = 0
        self._pending: list[tuple[Numbers, Counts, Numbers]] = []
        self._waiting = 0
        self._numbers = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)
        self._places = np.empty(0, np.uint64)

    @classmethod
    def of(cls, numbers: Numbers, counts: Counts, *, error: int = 0) -> Tally:
        """A tally of numbers that are counted already."""
        tally = cls()
        tally.total, tally._error = int(counts.sum()), error
        tally._put(numbers, counts, np.zeros(len(numbers), np.uint64))
        return tally

    def add(
        self, numbers: Iterable[int] | Numbers, places: Iterable[int] | Numbers | None = None
    ) -> None:
        """Count numbers from 0 to 2**64 - 1; with each, where it was found."""
        given = _as_numbers(numbers)
        where = np.zeros(len(given), np.uint64) if places is None else _as_numbers(places)
        self.total += len(given)
        self._put(given, np.ones(len(given), np.int64), where)

    def merge(self, other: Tally) -> None:
        """Add what another tally has counted."""
        other._compact()
        self.total += other.total
        self._error += other._error
        self._put(other._numbers, other._counts, other._places)

    def compacted(self) -> Tally:
        """Itself, as small as it gets: for sending it elsewhere."""
        self._compact()
        return self

    @property
    def numbers(self) -> Numbers:
        """The different numbers, ascending."""
        self._compact()
        return self._numbers

    @property
    def counts(self) -> Counts:
        """How often each of them occurs."""
        self._compact()
        return self._counts

    @property
    def error(self) -> int:
        """By how much a count may be too low; 0 where all are exact."""
        self._compact()
        return self._error

    @property
    def is_exact(self) -> bool:
        """Whether no number was given up."""
        return self.error == 0

    def most_frequent(self, most: int) -> list[tuple[int, int, int]]:
        """Number, count and place of the most frequent, the most frequent first."""
        self._compact()
        order = np.lexsort((self._places, -self._counts))[:most]
        columns = (self._numbers[order], self._counts[order], self._places[order])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def _put(self, numbers: Numbers, counts: Counts, places: Numbers) -> None:
        if not len(numbers):
            return
        self._pending.append((numbers, counts, places))
        self._waiting += len(numbers)
        # Waiting for as many as are held keeps the sorting cheap: each is sorted a few times.
        if self._waiting > max(_PENDING, len(self._numbers)):
            self._compact()

    def _compact(self) -> None:
        if not self._pending:
            return
        parts = [(self._numbers, self._counts, self._places), *self._pending]
        numbers, counts, places = (
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
            np.concatenate([part[2] for part in parts]),
        )
        self._pending, self._waiting = [], 0
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        firsts = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
        self._numbers = numbers[firsts]
        self._counts = np.add.reduceat(counts[order], firsts)
        self._places = np.minimum.reduceat(places[order], firsts)
        if len(self._numbers) > self.limit:
            self._give_up_rarest()

    def _give_up_rarest(self) -> None:
        """Keep half of the bound at most, so that this is seldom done."""
        most = self.limit // 2
        cut = int(np.partition(self._counts, -most - 1)[-most - 1])
        kept = self._counts > cut
        self._error += cut
        self._numbers, self._places = self._numbers[kept], self._places[kept]
        self._counts = self._counts[kept] - cut


def _as_numbers(numbers: Iterable[int] | Numbers) -> Numbers:
    if isinstance(numbers, np.ndarray):
        return numbers
    return np.fromiter(numbers, np.uint64)
