"""Jinja's filters and tests, each paid for before it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import wraps
from typing import Any

from jinja2 import filters, pass_environment
from jinja2.exceptions import SecurityError

from .budget import BUDGET, ITEM_COST, TURN_COST, check_join, check_numbers, check_replace, to_json

Named = dict[str, Any]
"""Functions by name."""

OFFERED = (
    *("abs", "attr", "batch", "capitalize", "count", "d", "default", "dictsort", "e", "escape"),
    *("first", "float", "groupby", "indent", "int", "items", "last", "length", "list", "lower"),
    *("map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe"),
    *("select", "selectattr", "slice", "sort", "string", "sum", "title", "trim", "unique"),
    *("upper", "wordcount"),
)
MAX_INDENT = 20
"""Deepest indent of JSON a level."""
_FREE = {"attr", "count", "d", "default", "first", "last", "length"}
"""They do not walk through their input: a template may ask how many messages there are."""
_SHALLOW = {
    *("batch", "items", "list", "map", "reject", "rejectattr", "reverse", "select"),
    *("selectattr", "slice"),
}
"""They walk through its items, not through what is in them."""
_WALKING_TESTS = {
    *("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge", "<", "lt"),
    *("lessthan", "<=", "le", "lower", "upper"),
}


def metered_filters(known: Named) -> Named:
    """The filters that templates get."""
    own: Named = {
        "batch": batch,
        "indent": indent,
        "replace": replace,
        "round": round_number,
        "slice": slice_items,
        "sum": sum_numbers,
        "trim": trim,
    }
    offered = {name: _metered(name, own.get(name) or known[name]) for name in OFFERED}
    return offered | {"tojson": _metered("tojson", paid_json), "join": join}


def metered_tests(known: Named) -> Named:
    """The tests that templates get."""
    return {name: _metered_test(name, function) for name, function in known.items()}


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose input and result are paid for."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        given, source, rest = args[:at], args[at], args[at + 1 :]
        BUDGET.spend(TURN_COST)
        if name in _SHALLOW:
            BUDGET.spend(len(source) if isinstance(source, Sized) else 0)
        elif name not in _FREE:
            source = BUDGET.weigh(list(source) if isinstance(source, Iterator) else source)
        BUDGET.weigh(rest)
        BUDGET.weigh(kwargs)
        return BUDGET.pay(function(*given, source, *rest, **kwargs))

    return measured


def _metered_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def measured(*args: Any) -> Any:
        BUDGET.spend(1)
        if name == "in":
            BUDGET.weigh(args[0])
            BUDGET.searched(args[-1])
        elif name in _WALKING_TESTS:
            BUDGET.weigh(args)
        return function(*args)

    return measured


def join(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    """Texts, joined, and paid for before they are."""
    items = list(value)
    if attribute is not None:
        items = [item[attribute] for item in items]
    return d.join([str(item) for item in check_join(d, items)])


def replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    """The text with every `old` replaced."""
    text, old, new = str(s), str(old), str(new)
    check_replace(text, old, new)
    return text.replace(old, new, -1 if count is None else count)


def indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """The text with its lines indented."""
    deep = len(width) if isinstance(width, str) else max(width, 0)
    BUDGET.spend((len(s.splitlines()) + 1) * deep)
    return filters.do_indent(s, width, first, blank)


def round_number(value: Any, precision: int = 0, method: Any = "common") -> Any:
    """A number with few digits; ten to a great power takes seconds."""
    if abs(precision) > 20:
        raise SecurityError("round with a precision above 20 is not offered to templates")
    return filters.do_round(value, precision, method)


def batch(value: Any, linecount: int, fill_with: Any = None) -> Any:
    """Lists of so many items."""
    check_numbers((linecount,))
    BUDGET.spend(0 if fill_with is None else ITEM_COST * linecount)
    return filters.do_batch(value, linecount, fill_with)


def slice_items(value: Any, slices: int, fill_with: Any = None) -> Any:
    """So many lists of items."""
    check_numbers((slices,))
    BUDGET.spend(ITEM_COST * slices)
    return filters.sync_do_slice(value, slices, fill_with)


@pass_environment
def sum_numbers(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    """The sum of numbers; a sum of lists copies each of them again for every other."""
    if not isinstance(start, int | float):
        raise SecurityError("sum is only offered for numbers")
    return filters.sync_do_sum(environment, iterable, attribute, start)


def trim(value: Any, chars: str | None = None) -> str:
    """The text without white space, or other characters, at its ends."""
    text = str(value)
    BUDGET.spend(len(text) * len(chars or ""))
    return filters.do_trim(value, chars)


def paid_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON, whose white space is paid for while it is written."""
    deep = indent if isinstance(indent, int) else len(indent or "")
    if deep > MAX_INDENT or sum(map(len, separators or ())) > MAX_INDENT:
        raise SecurityError(f"tojson indents and separates by {MAX_INDENT} characters at most")
    if indent is None:
        return to_json(value, ensure_ascii, separators=separators, sort_keys=sort_keys)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return "".join([BUDGET.pay(piece) for piece in encoder.iterencode(value)])
