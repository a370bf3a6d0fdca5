"""Places of values in a JSON text, and changes there that leave every other character alone.

Parsed and written anew, 1.10 would become 1.1, and a diff of the file would show every line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

# Numbers are only skipped here; Python refuses to parse those of more than 4,300 digits.
_skip_value = json.JSONDecoder(parse_int=str).raw_decode
_BETWEEN = re.compile(r"[ \t\r\n,:]*")


class Value(NamedTuple):
    """Where a value stands, as offsets in the text."""

    start: int
    stop: int

    def of(self, text: str) -> str:
        """The value's JSON."""
        return text[self.start : self.stop]


class Field(NamedTuple):
    """A field of an object."""

    name: Value
    value: Value


class Edit(NamedTuple):
    """One change of a text."""

    kind: str
    """What sort of change, such as doctor/edits.EDITS."""
    where: str
    """What is changed, such as `conversations[0].from`."""
    start: int
    stop: int
    new: str
    """What stands there instead, as JSON."""


def fields(text: str, at: int = 0) -> dict[str, Field]:
    """Fields of the object that begins at a place; of fields with one name the last counts.

    Example:
        >>> fields('{"a": [1], "b": 2}')["b"].value
        Value(start=16, stop=17)
    """
    found = {}
    at = _skip(text, _skip_space(text, at) + 1)
    while text[at] != "}":
        name, stop = _skip_value(text, at)
        start = _skip(text, stop)
        _, end = _skip_value(text, start)
        found[str(name)] = Field(Value(at, stop), Value(start, end))
        at = _skip(text, end)
    return found


def items(text: str, at: int) -> list[Value]:
    """Elements of the list that begins at a place."""
    found = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        _, stop = _skip_value(text, at)
        found.append(Value(at, stop))
        at = _skip(text, stop)
    return found


def apply(text: str, edits: Iterable[Edit]) -> str:
    """The text with all changes made; they must not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.new + text[edit.stop :]
    return text


def _skip(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return match.end() if match else at


def _skip_space(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip(" \t\r\n"))
