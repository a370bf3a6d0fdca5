"""Quotation marks in a table of text: do they enclose cells (RFC 4180), and where do they fail."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_INSIDE = re.compile(r'[^"]*(?:""[^"]*)*')
"""What a quoted cell has on one line before its end."""


class Fault(NamedTuple):
    """A cell that begins with a quotation mark and is no quoted cell."""

    line: int
    """Number of the line where it begins."""
    what: str
    """What is wrong with it."""


def find_fault(lines: Iterable[str], mark: str, columns: int, *, is_tsv: bool) -> Fault | None:
    r"""Look at every cell that begins with a quotation mark; one line is held at a time.

    Where tabs part cells, text is seldom quoted: a cell that begins on a whole row and ends on
    another is taken for two cells, each with a mark of its own.

    Args:
        lines: with their ends, the header first.
        mark: parts the cells.
        columns: of the header.
        is_tsv: whether tabs part cells.

    Returns:
        The first cell that is not quoted well; None where all are.

    Example:
        >>> find_fault(['a\t"b"\n', 'c\t"d" e\n'], "\t", 2, is_tsv=True)
        Fault(line=2, what='ends before its cell does')
    """
    opening = re.compile(rf'(?<![^{re.escape(mark)}])"')
    begun = begun_row = 0
    for number, line in enumerate(lines, start=1):
        if not begun and '"' not in line:
            continue
        at, is_row = 0, line.count(mark) == columns - 1
        match: re.Match[str] | None = None
        while begun or (match := opening.search(line, at)):
            at = _end(line, match.end() if match else at)
            if at == len(line):
                begun, begun_row = begun or number, begun_row if begun else is_row
                break
            if line[at + 1 : at + 2] not in (mark, "\r", "\n", ""):
                return Fault(begun or number, "ends before its cell does")
            if begun and begun_row and is_row and is_tsv:
                return Fault(begun, f"ends in the row of line {number}")
            begun, at = 0, at + 1
    return Fault(begun, "is never closed") if begun else None


def _end(line: str, at: int) -> int:
    """Where the quotation mark is that closes a cell; the end of the line where none does."""
    match = _INSIDE.match(line, at)
    return match.end() if match else at
