"""What the parts of a `--filter` do with a record's values, and what they do with none."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any


class Unknown:
    """The value of what cannot be said of a record."""


UNKNOWN = Unknown()
Function = tuple[Callable[..., Any], int]
"""A function, and how many values it takes; 0 is any number but none."""
_MAX_INTEGER = 1 << 63


def truth(value: Any) -> bool | Unknown:
    """Whether a value counts as true."""
    return value if value is UNKNOWN else bool(value)


def negate(holds: bool | Unknown) -> bool | Unknown:
    """What `not` makes of it."""
    return holds if isinstance(holds, Unknown) else not holds


def apply(function: Callable[..., Any], *values: Any) -> Any:
    """A function's value, or UNKNOWN where these values have none."""
    if any(value is UNKNOWN for value in values):
        return UNKNOWN
    try:
        return function(*values)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return UNKNOWN


def item(value: Any, place: Any) -> Any:
    """What a JSON value holds at a place; None where that is nothing."""
    if isinstance(value, dict) and isinstance(place, str):
        return value.get(place)
    if isinstance(value, list) and isinstance(place, int):
        return value[place] if -len(value) <= place < len(value) else None
    return None if value is None else UNKNOWN


def _numbers(calculate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Arithmetic for numbers alone, none of them large: 'a' * 10**9 would never end."""

    def checked(left: Any, right: Any) -> Any:
        for value in (left, right):
            if not isinstance(value, int | float):
                raise TypeError
            if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
                raise OverflowError
        return calculate(left, right)

    return checked


def negative(value: Any) -> Any:
    """The number with the other sign."""
    return _numbers(operator.sub)(0, value)


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """An order of numbers, and one of texts; there is none between them."""

    def checked(left: Any, right: Any) -> bool:
        are_texts = isinstance(left, str) and isinstance(right, str)
        if not are_texts and not all(isinstance(v, int | float) for v in (left, right)):
            raise TypeError
        return test(left, right)

    return checked


def _is_in(left: Any, right: Any) -> bool:
    if isinstance(right, str):
        return left in right
    if isinstance(right, list | dict):
        return any(left == element for element in right)
    raise TypeError


def _is_not_in(left: Any, right: Any) -> bool:
    return not _is_in(left, right)


def _most(choose: Callable[..., Any]) -> Callable[..., Any]:
    """The smallest or the largest of several numbers, or of a list of them."""

    def checked(*values: Any) -> Any:
        among = values[0] if len(values) == 1 and isinstance(values[0], list) else values
        if not all(isinstance(value, int | float) for value in among):
            raise TypeError
        return choose(among)

    return checked


def _text(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*values: Any) -> Any:
        if not all(isinstance(value, str) for value in values):
            raise TypeError
        return function(*values)

    return checked


ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _numbers(operator.add),
    ast.Sub: _numbers(operator.sub),
    ast.Mult: _numbers(operator.mul),
    ast.Div: _numbers(operator.truediv),
    ast.FloorDiv: _numbers(operator.floordiv),
    ast.Mod: _numbers(operator.mod),
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.eq,
    ast.IsNot: operator.ne,
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.In: _is_in,
    ast.NotIn: _is_not_in,
}
FUNCTIONS: dict[str, Function] = {
    "len": (len, 1),
    "min": (_most(min), 0),
    "max": (_most(max), 0),
    "abs": (abs, 1),
    "lower": (_text(str.lower), 1),
    "startswith": (_text(str.startswith), 2),
    "endswith": (_text(str.endswith), 2),
    "count": (_text(str.count), 2),
}
