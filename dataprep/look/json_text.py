"""JSON as it stands, indented: no number, escape or repeated key is lost by parsing it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ...loaders.loose_record import load_json

Path = Sequence[str | int]
"""Keys and positions that lead to a value, such as `("conversations", 2, "value")`."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_DEEPEST_INDENT = 20
"""Levels; deeper ones get no more space, or a hostile text would grow to gigabytes."""


class Laid(NamedTuple):
    """A JSON text, indented."""

    text: str
    span: tuple[int, int] | None
    """Characters [start, end) of the value that was asked for."""


def lay_out(text: str, path: Path = ()) -> Laid:
    """A JSON text with a line for each value, and where one of them lies.

    Args:
        text: valid JSON.
        path: of the value; the last of repeated keys counts, as in parsing.

    Example:
        >>> laid = lay_out('{"a": 1.10, "b": [1, 2]}', ("b", 1))
        >>> print(laid.text)
        {
          "a": 1.10,
          "b": [
            1,
            2
          ]
        }
        >>> laid.text[slice(*laid.span)]
        '2'
    """
    writer = _Writer(tuple(path))
    for match in _TOKEN.finditer(text):
        writer.add(match[0])
    return Laid("".join(writer.out), writer.span)


def is_json(raw: bytes) -> bool:
    """Whether it parses."""
    try:
        load_json(raw)
    except (ValueError, RecursionError):
        return False
    return True


class _Writer:
    """Takes tokens, writes them with line breaks, and notes where the wanted value lies."""

    def __init__(self, wanted: tuple[str | int, ...]) -> None:
        self.out: list[str] = []
        self.span: tuple[int, int] | None = None
        self._wanted = wanted
        self._size = 0
        self._here: list[str | int | None] = []
        self._start: int | None = None
        self._key: str | None = None
        self._after_colon = False

    def add(self, token: str) -> None:
        """Write the next token."""
        if token in "}]":
            self._close(token)
        elif token == ",":
            self._write(",")
        elif token == ":":
            self._write(": ")
            self._after_colon = True
        elif self._here and not self._after_colon and self._is_key():
            self._break()
            self._here[-1] = _unquoted(token)
            self._write(token)
        else:
            self._value(token)

    def _value(self, token: str) -> None:
        if self._here and not self._after_colon:
            last = self._here[-1]
            assert isinstance(last, int)
            self._here[-1] = last + 1
            self._break()
        self._after_colon = False
        if tuple(self._here) == self._wanted:
            self._start = self._size
        self._write(token)
        if token in "{[":
            self._here.append(None if token == "{" else -1)
        else:
            self._end_value()

    def _close(self, token: str) -> None:
        last = self._here.pop() if self._here else None
        if last not in (None, -1):
            self._break()
        self._write(token)
        self._end_value()

    def _end_value(self) -> None:
        if self._start is not None and tuple(self._here) == self._wanted:
            self.span, self._start = (self._start, self._size), None

    def _is_key(self) -> bool:
        return not isinstance(self._here[-1], int)

    def _break(self) -> None:
        self._write("\n" + "  " * min(len(self._here), _DEEPEST_INDENT))

    def _write(self, text: str) -> None:
        self.out.append(text)
        self._size += len(text)


def _unquoted(token: str) -> str:
    try:
        return str(load_json(token.encode("utf-8", "surrogatepass")))
    except (ValueError, RecursionError):
        return token
