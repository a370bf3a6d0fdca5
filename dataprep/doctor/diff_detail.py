"""What is different in two rows that belong together: turns, images, fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

import msgspec

from ...loaders.turns import Turn
from .diff_row import Image, Row

_CONTEXT = 40
_SHOWN = 300
"""Characters of one side of a change."""
_MAX_ALIGNED = 400
"""Turns that are aligned; longer conversations are compared place by place."""


class TextChange(msgspec.Struct, frozen=True, kw_only=True):
    """Two texts, with what both begin and end with set apart."""

    before: str
    old: str
    new: str
    after: str


class TurnChange(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that was changed, added or removed."""

    number: int
    """In the first row; of an added turn, in the second."""
    old_role: str | None
    """None of an added turn."""
    new_role: str | None
    """None of a removed turn."""
    text: TextChange


class ImageChange(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was changed, added or removed."""

    number: int
    path: str
    old: str | None
    new: str | None


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """A field with another value; None where there is none. Values are JSON, cut where long."""

    name: str
    old: str | None
    new: str | None


class RowChange(msgspec.Struct, frozen=True, kw_only=True):
    """Two rows that belong together and differ."""

    index_a: int
    index_b: int
    id_a: str | None
    id_b: str | None
    split_a: str | None
    split_b: str | None
    turns: list[TurnChange] = []
    images: list[ImageChange] = []
    fields: list[FieldChange] = []


def compare(a: Row, b: Row) -> RowChange:
    """All that is different in two rows."""
    return RowChange(
        index_a=a.index,
        index_b=b.index,
        id_a=_plain(a.id),
        id_b=_plain(b.id),
        split_a=a.split,
        split_b=b.split,
        turns=list(_turns(a.turns, b.turns)),
        images=list(_images(a.images, b.images)),
        fields=list(_fields(a.fields, b.fields)),
    )


def text_change(old: str, new: str) -> TextChange:
    """Where two texts differ, from the first to the last different word.

    Example:
        >>> change = text_change("a cat on a mat", "a dog on a mat")
        >>> change.before, change.old, change.new, change.after
        ('a ', 'cat', 'dog', ' on a mat')
    """
    shorter = min(len(old), len(new))
    start = _shared(old, new, shorter)
    stop = _shared(old[::-1], new[::-1], shorter - start)
    # Whole words are easier to read than the letters that differ.
    while start and not old[start - 1].isspace():
        start -= 1
    while stop and not old[len(old) - stop].isspace():
        stop -= 1
    return TextChange(
        before=_plain_text(_tail(old[:start])),
        old=_plain_text(_cut(old[start : len(old) - stop])),
        new=_plain_text(_cut(new[start : len(new) - stop])),
        after=_plain_text(_head(old[len(old) - stop :])),
    )


def _shared(a: str, b: str, most: int) -> int:
    """How many characters two texts begin with alike, found by halving."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _turns(a: list[Turn], b: list[Turn]) -> Iterator[TurnChange]:
    for start_a, stop_a, start_b, stop_b in _different(a, b):
        numbers = zip_longest(range(start_a, stop_a), range(start_b, stop_b))
        for number_a, number_b in numbers:
            old = None if number_a is None else a[number_a]
            new = None if number_b is None else b[number_b]
            yield TurnChange(
                number=number_b if number_a is None else number_a,
                old_role=None if old is None else _plain_text(old.role),
                new_role=None if new is None else _plain_text(new.role),
                text=text_change(old.value if old else "", new.value if new else ""),
            )


def _different(a: list[Turn], b: list[Turn]) -> Iterator[tuple[int, int, int, int]]:
    if max(len(a), len(b)) > _MAX_ALIGNED:
        for number, (old, new) in enumerate(zip_longest(a, b)):
            if old != new:
                yield number, number + (old is not None), number, number + (new is not None)
        return
    left, right = ([(turn.role, turn.value) for turn in turns] for turns in (a, b))
    for tag, *places in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag != "equal":
            yield places[0], places[1], places[2], places[3]


def _images(a: list[Image], b: list[Image]) -> Iterator[ImageChange]:
    for number, (old, new) in enumerate(zip_longest(a, b)):
        if old is None or new is None or old.hash != new.hash:
            yield ImageChange(
                number=number,
                path=_plain_text((new or old).path),
                old=old and old.describe(),
                new=new and new.describe(),
            )


def _fields(a: dict[str, Any], b: dict[str, Any]) -> Iterator[FieldChange]:
    for name in sorted(a.keys() | b.keys()):
        if a.get(name, _NONE) != b.get(name, _NONE):
            old, new = (_value(side[name]) if name in side else None for side in (a, b))
            yield FieldChange(name=_plain_text(name), old=old, new=new)


_NONE = object()


def _value(value: Any) -> str:
    return _plain_text(_cut(json.dumps(value, ensure_ascii=False)))


def _cut(text: str) -> str:
    rest = len(text) - _SHOWN
    return text if rest <= 0 else f"{text[:_SHOWN]}... and {rest:,} more characters"


def _tail(text: str) -> str:
    return text if len(text) <= _CONTEXT else f"...{text[-_CONTEXT:]}"


def _head(text: str) -> str:
    return text if len(text) <= _CONTEXT else f"{text[:_CONTEXT]}..."


def _plain(text: str | None) -> str | None:
    return None if text is None else _plain_text(text)


def _plain_text(text: str) -> str:
    """Text that can be written as UTF-8: half a surrogate pair becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
