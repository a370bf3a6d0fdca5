"""Parts of long texts: what is shown first, what of it is marked, and how much is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .view import Finding

AROUND_MARK = 400
"""Characters that are shown on each side of a broken place outside the shown beginning."""
MAX_MARKS = 50
"""Marked places of one record; a record with more is cut behind the last."""

_JSON_PART = re.compile(
    r'(?P<key>"(?:\\.|[^"\\\n])*+"(?=\s{0,9}:))'
    r'|(?P<string>"(?:\\.|[^"\\\n])*+"?)'
    r"|(?P<number>-?\d[\d.eE+-]*+|\b(?:true|false|null)\b)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A text in three parts."""

    shown: str
    more: str
    """What follows; shown on request."""
    left: int
    """Characters behind that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a record's JSON that looks alike."""

    text: str
    kind: str = ""
    """`key`, `string`, `number`, or nothing."""
    finding: str = ""
    """What is wrong here; nothing where all is well."""
    skipped: int = 0
    """Characters left out here; the text is then empty."""


def cut(text: str, limit: int) -> Cut:
    """The first characters of a text, four times as many on request, and how many more it has.

    Example:
        >>> cut("abcdefghijk", 2)
        Cut(shown='ab', more='cdefghij', left=1)
    """
    # A few more characters are no more work to read than the note that they are there.
    if len(text) <= limit * 1.2:
        return Cut(shown=text, more="", left=0)
    return Cut(shown=text[:limit], more=text[limit : 5 * limit], left=max(0, len(text) - 5 * limit))


def name_of(text: str, limit: int = 200) -> str:
    r"""The beginning of an id; one that could not be seen stands in quotes, spelled out.

    Example:
        >>> name_of("cat-7"), name_of(" \n")
        ('cat-7', '" \\n"')
    """
    text = text[:limit]
    seen = any(character.isprintable() and not character.isspace() for character in text)
    return text if seen else json.dumps(text)


def mark_record(text: str, findings: Sequence[Finding], limit: int) -> list[Piece]:
    """The JSON of a record for reading: its beginning, and all of its marked places.

    Args:
        text: the JSON, or what stands in its place.
        findings: those with a `start` are marked.
        limit: characters of the beginning.
    """
    marks = _marks(text, findings)
    pieces: list[Piece] = []
    at = 0
    for start, end in _windows(len(text), marks, limit):
        if start > at:
            pieces.append(Piece(text="", skipped=start - at))
        pieces += _pieces(text, start, end, marks)
        at = end
    if at < len(text):
        pieces.append(Piece(text="", skipped=len(text) - at))
    return pieces


def _marks(text: str, findings: Sequence[Finding]) -> list[tuple[int, int, str]]:
    """Bounds and messages in order; of two that overlap the later begins behind the earlier."""
    found = []
    for finding in findings:
        if finding.start is not None and text:
            # What ends too early is marked at its last character.
            start = min(max(finding.start, 0), len(text) - 1)
            end = start if finding.end is None else min(finding.end, len(text))
            found.append((start, max(end, start + 1), finding.message))
    marks: list[tuple[int, int, str]] = []
    for start, end, message in sorted(found):
        start = max(start, marks[-1][1] if marks else 0)
        if start < end:
            marks.append((start, end, message))
    return marks[:MAX_MARKS]


def _windows(size: int, marks: Sequence[tuple[int, int, str]], limit: int) -> list[tuple[int, int]]:
    if size <= limit * 1.2:
        return [(0, size)]
    windows = [(0, limit)]
    for start, end, _ in marks:
        # A mark as long as the text is cut as well: its begin says where it is.
        stop = min(end, start + limit)
        first, last = max(0, start - AROUND_MARK), min(size, stop + AROUND_MARK)
        if first <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(last, windows[-1][1]))
        else:
            windows.append((first, last))
    return windows


def _pieces(
    text: str, start: int, end: int, marks: Sequence[tuple[int, int, str]]
) -> Iterator[Piece]:
    edges = sorted(
        {start, end} | {edge for mark in marks for edge in mark[:2] if start < edge < end}
    )
    kinds = list(_kinds(text, start, end))
    place = 0
    for first, last in pairwise(edges):
        finding = next((m for s, e, m in marks if s <= first < e), "")
        while place < len(kinds) and kinds[place][0] < last:
            begin, stop, kind = kinds[place]
            yield Piece(text=text[max(begin, first) : min(stop, last)], kind=kind, finding=finding)
            if stop > last:
                break
            place += 1


def _kinds(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """Bounds and kind of every stretch between two places, without a gap."""
    at = start
    for found in _JSON_PART.finditer(text, start, end):
        if found.start() > at:
            yield at, found.start(), ""
        yield found.start(), found.end(), found.lastgroup or ""
        at = found.end()
    if at < end:
        yield at, end, ""
