"""Tokens of a text as lists: ids and where each one stands."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Listed:
    """A text's tokens."""

    ids: list[int]
    """Token ids."""
    offsets: list[Span]
    """Character span [start, end) of each token, in order; bytes of one character share one."""

    def touched(self, start: int, end: int) -> Span:
        """The tokens [first, last) that touch the characters [start, end).

        Example:
            >>> Listed([5, 6, 7], [(0, 4), (4, 9), (9, 10)]).touched(5, 9)
            (1, 2)
        """
        return touched(self.offsets, start, end)


def touched(offsets: Sequence[Span], start: int, end: int) -> Span:
    """The tokens [first, last) at some places that touch the characters [start, end)."""
    first = bisect_left(offsets, (start, -1))
    while first and offsets[first - 1][1] > start:
        first -= 1
    return first, bisect_left(offsets, (end, -1), lo=first)
