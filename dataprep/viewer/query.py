"""What a page of samples asks for, as its address has it and as SQL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

MAX_SEARCH = 1000
_RANGE = re.compile(r"(\d{0,9})-(\d{0,9})|(\d{1,9})")

STATES = {
    "text": ("text only", "images = 0"),
    "untrained": ("no trained token", "trained = 0"),
    "long": ("over length", "fault IN ('too_long', 'too_long_for_pack')"),
    "skipped": ("skipped in training", "fault IS NOT NULL"),
    "rejected": ("rejected", "reason IS NOT NULL"),
}
"""Name in the address -> what it is called, and its condition."""
OF_TOKENS = frozenset(("untrained", "long", "skipped"))
"""States that are known only once a sample is tokenized."""
SORTS = {
    "": ("position", "n", False),
    "chars": ("longest text", "chars", True),
    "turns": ("most turns", "turns", True),
    "images": ("most images", "images", True),
    "tokens": ("most positions", "COALESCE(length, -1)", True),
    "short": ("fewest positions", "COALESCE(length, 1 << 40)", False),
    "trained": ("fewest trained tokens", "COALESCE(trained, 1 << 40)", False),
}
"""Name in the address -> what it is called, what it sorts by, and whether the largest is first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which samples, in which order; each field is a parameter of the address."""

    q: str = ""
    """Text to find in ids and turns, upper and lower case alike."""
    split: str = ""
    images: str = ""
    """Of a sample: a number, or a range such as `2-` or `1-3`."""
    turns: str = ""
    """A number or a range."""
    tokens: str = ""
    """Positions in the model: a number or a range."""
    state: str = ""
    """One of STATES."""
    sort: str = ""
    """One of SORTS."""

    @classmethod
    def from_address(cls, parameters: Mapping[str, str]) -> Query:
        """What an address asks for; what makes no sense in it counts as not there."""
        values = {one.name: parameters.get(one.name, "").strip() for one in fields(cls)}
        values["q"] = values["q"][:MAX_SEARCH]
        for name in ("images", "turns", "tokens"):
            if not _RANGE.fullmatch(values[name]) or values[name] == "-":
                values[name] = ""
        if values["state"] not in STATES:
            values["state"] = ""
        if values["sort"] not in SORTS:
            values["sort"] = ""
        return cls(**values)

    def address(self, **more: Any) -> str:
        """The part of an address behind the `?`, with further parameters; empty for everything."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        given = {name: value for name, value in (own | more).items() if value not in ("", None)}
        return urlencode(given)

    @property
    def is_all(self) -> bool:
        """Whether every sample is asked for, in its place."""
        return self == Query()

    @property
    def needs_tokens(self) -> bool:
        """Whether only tokenizing can tell."""
        by_tokens = self.sort in ("tokens", "short", "trained")
        return bool(self.tokens) or self.state in OF_TOKENS or by_tokens

    def where(self) -> tuple[str, list[Any]]:
        """The condition, and its values."""
        conditions, values = ["1"], list[Any]()
        if self.q:
            conditions.append("n IN (SELECT n FROM texts WHERE instr(folded, ?))")
            values.append(fold(self.q))
        if self.split:
            conditions.append("split = ?")
            values.append(self.split)
        for name, column in (("images", "images"), ("turns", "turns"), ("tokens", "length")):
            if given := getattr(self, name):
                low, high = _bounds(given)
                conditions.append(f"{column} BETWEEN ? AND ?")
                values += [low, high]
        if self.state:
            conditions.append(STATES[self.state][1])
        return " AND ".join(conditions), values

    def order(self) -> str:
        """What the rows are sorted by; rows that are equal in it stay in their places."""
        _, column, largest_first = SORTS[self.sort]
        return f"{column} {'DESC' if largest_first else 'ASC'}, n"

    def beyond(self, *, forward: bool) -> tuple[str, str]:
        """The condition that picks what follows, or precedes, a row, and the order to take it in.

        The condition takes `:n`, and compares with the row of that number.
        """
        _, column, largest_first = SORTS[self.sort]
        if column == "n":
            sign, order = (">", "ASC") if forward else ("<", "DESC")
            return f"n {sign} :n", f"n {order}"
        up = forward != largest_first
        first, order = (">", "ASC") if up else ("<", "DESC")
        second, second_order = (">", "ASC") if forward else ("<", "DESC")
        here = f"(SELECT {column} FROM samples WHERE n = :n)"
        condition = f"({column} {first} {here} OR ({column} = {here} AND n {second} :n))"
        return condition, f"{column} {order}, n {second_order}"


def fold(text: str) -> str:
    """Text as it is searched: upper and lower case alike."""
    # SQLite takes no half of a surrogate pair.
    return text.casefold().encode("utf-8", "replace").decode()


def _bounds(given: str) -> tuple[int, int]:
    """Both ends of a range, included.

    Example:
        >>> _bounds("3"), _bounds("2-"), _bounds("-5")
        ((3, 3), (2, 1099511627776), (0, 5))
    """
    low, dash, high = given.partition("-")
    if not dash:
        return int(low), int(low)
    return int(low or 0), int(high) if high else 1 << 40
