"""`--filter`: which records the user wants, by what they say and how large their images are."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ..errors import ConfigError
from .expression import Expression, parse_expression
from .expression_values import UNKNOWN
from .readers.record import Record

_ROLES = {"questions": "human", "answers": "gpt"}
COMPUTED = frozenset({"turns", "images", "text", *_ROLES, "width", "height", "record"})
"""Names that mean something of every record; any other is a field of it."""
_MAX_DIGITS = 300


class Fields:
    """The values of one record, by the names that expressions use.

    `text` is all turns, `questions` and `answers` those of one role, a turn a line. `turns` and
    `images` are numbers of them; `width` and `height` those of the smallest image, None without
    one. `record` is the whole record, for a field that has one of these names.
    """

    def __init__(
        self, content: bytes, record: Record, sizes: Callable[[], Sequence[tuple[int, int]]]
    ) -> None:
        """Look at a record.

        Args:
            content: in LLaVA's form.
            record: the same, parsed.
            sizes: gives width and height of each of its images; asked only where it matters.
        """
        self._content = content
        self._record = record
        self._sizes = sizes
        self._fields: dict[str, Any] | None = None

    def __call__(self, name: str) -> Any:
        """A value; None where the record has no such field."""
        if name not in COMPUTED:
            return self.fields.get(name)
        if name == "record":
            return self.fields
        if name == "turns":
            return len(self._record.turns)
        if name == "images":
            return len(self._record.images)
        if name in ("width", "height"):
            sides = [size[name == "height"] for size in self._sizes()]
            return min(sides, default=None)
        role = _ROLES.get(name)
        turns = self._record.turns
        return "\n".join(turn.value for turn in turns if role in (None, turn.role))

    @property
    def fields(self) -> dict[str, Any]:
        """All of the record."""
        if self._fields is None:
            self._fields = _parse(self._content)
        return self._fields


class Verdict(NamedTuple):
    """What the filters say of a record."""

    failed: int | None
    """Number of the first filter that it does not pass; None where it passes all."""
    unknown: bool = False
    """Whether that is because the filter cannot say: a field is missing, or of another kind."""


class Filters:
    """The expressions of one conversion."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Parse them.

        Raises:
            ConfigError: one is wrong; the message shows where.
        """
        self.expressions = tuple(parse_filter(text) for text in texts)
        self.missing = {
            name for each in self.expressions for name in each.names if name not in COMPUTED
        }
        """Fields that no record was seen to have yet."""

    def judge(self, fields: Fields) -> Verdict:
        """Hold a record against each expression, in the order in which they were given."""
        if self.missing:
            self.missing -= fields.fields.keys()
        for number, expression in enumerate(self.expressions):
            holds = expression.of(fields)
            if holds is not True:
                return Verdict(number, holds is UNKNOWN)
        return Verdict(None)


def parse_filter(text: str) -> Expression:
    """Parse one expression.

    Raises:
        ConfigError: it is wrong; the message shows where.
    """
    return parse_expression(text, {"words": _count_words})


def refuse_missing(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that stand for nothing: most are slips, and would let pass what they should not.

    Args:
        names: fields that no record has.
        known: some that records have.

    Raises:
        ConfigError: there is such a name.
    """
    for name in sorted(names):
        among = sorted({*known, *COMPUTED})
        close = difflib.get_close_matches(name, among, 1)
        meant = f" (is {close[0]} meant?)" if close else ""
        raise ConfigError(
            f"--filter: no record has a field {name!r}{meant}; there are {', '.join(among)}"
        )


def _parse(content: bytes) -> dict[str, Any]:
    try:
        return dict(msgspec.json.decode(content))
    except (ValueError, RecursionError):
        pass
    try:
        # Such as half a surrogate pair in a field that is only passed on.
        return dict(json.loads(content.decode(), parse_int=_parse_int))
    except (ValueError, RecursionError):
        return {}


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) < _MAX_DIGITS else float(digits)


def _count_words(text: str) -> int:
    if not isinstance(text, str):
        raise TypeError
    return len(text.split())
