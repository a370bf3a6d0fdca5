"""What a template from a stranger may spend: characters, time, and the size of numbers."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import wraps
from typing import Any

from jinja2.exceptions import SecurityError

MAX_SOURCE_CHARS = 200_000
"""Longest template."""
MAX_COST = 20_000_000
"""Characters that one rendering may make; a loop turn counts as TURN_COST of them."""
TURN_COST = 50
MAX_SECONDS = 3.0
"""Backstop for costs that are not counted; the budget ends a hostile template long before."""
MAX_NUMBER = 1_000_000
"""Largest number given to a call or filter, or made by * and **: widths and counts."""

WIDE_FORMAT = re.compile(r"\d{4,}|\*|\{[^{}]*:[^{}]*\{")


class Budget(threading.local):
    """What the rendering in this thread may still spend."""

    left: float = MAX_COST
    deadline: float = 0.0

    def restart(self) -> None:
        """Begin a rendering."""
        self.left = MAX_COST
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self, cost: int) -> None:
        """Pay, or end the rendering.

        Raises:
            SecurityError: the budget or the time is used up.
        """
        self.left -= cost
        if self.left < 0:
            raise SecurityError(f"the template makes more than {MAX_COST:,} characters of work")

    def turn(self, literal_chars: int) -> None:
        """Pay for one turn of a loop or one call of a macro, with its literal text."""
        self.spend(TURN_COST + literal_chars)
        if time.monotonic() > self.deadline:
            raise SecurityError(f"the template runs longer than {MAX_SECONDS:.0f} seconds")

    def pay(self, value: Any) -> Any:
        """Pay for a value by its length, and give it back."""
        if isinstance(value, Sized):
            self.spend(len(value))
        elif isinstance(value, int) and abs(value) > MAX_NUMBER**2:
            raise SecurityError(f"the template makes a number above {MAX_NUMBER**2:,}")
        return value

    def weigh(self, value: Any) -> Any:
        """Pay for everything in a value, and give it back: lists of lists grow fast."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, Mapping):
            self.spend(TURN_COST)
            for inner in value.values():
                self.weigh(inner)
        elif isinstance(value, list | tuple):
            self.spend(TURN_COST)
            for inner in value:
                self.weigh(inner)
        return value


BUDGET = Budget()


def metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose numbers are small and whose input and result are paid for."""

    @wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        check_numbers((*args, *kwargs.values()))
        BUDGET.spend(TURN_COST)
        texts = [BUDGET.weigh(arg) for arg in args if isinstance(arg, str | list | tuple | Mapping)]
        if function.__name__ == "do_replace" and len(texts) > 2:
            BUDGET.spend(replacement_chars(*texts[-3:]))
        if function.__name__ == "do_indent" and len(args) > 1:
            check_growth("*", args[0], args[1])
        return BUDGET.pay(function(*args, **kwargs))

    return measured


def join(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    """Texts, joined, and paid for before they are."""
    items = list(value)
    if attribute is not None:
        items = [item[attribute] for item in items]
    return d.join([str(item) for item in check_join(d, items)])


def replacement_chars(text: str, old: Any, new: Any) -> int:
    """Characters that a replacement may add."""
    return text.count(str(old)) * len(str(new))


def check_join(separator: str, items: Iterable[Any]) -> list[Any]:
    """The items of a join as a list, paid for."""
    listed = [BUDGET.weigh(item) for item in items]
    BUDGET.spend(len(separator) * len(listed))
    return listed


def check_growth(operator: str, left: Any, right: Any) -> None:
    """Refuse a product or power that would be large, before it is made."""
    if operator == "**":
        too_big = not (_is_small(left, MAX_NUMBER) and _is_small(right, 64))
    elif isinstance(left, Sized) or isinstance(right, Sized):
        text, times = (left, right) if isinstance(left, Sized) else (right, left)
        too_big = isinstance(times, int) and len(text) * times > MAX_NUMBER
    else:
        too_big = not (_is_small(left, MAX_NUMBER**2) and _is_small(right, MAX_NUMBER**2))
    if too_big:
        raise SecurityError(f"{operator} would make something larger than {MAX_NUMBER:,}")


def _is_small(value: Any, most: int) -> bool:
    return not isinstance(value, int | float) or abs(value) <= most


def check_format(text: str) -> None:
    """Refuse a format that pads to a great width."""
    if WIDE_FORMAT.search(text):
        raise SecurityError("a format with a width above 999 is not offered to templates")


def check_numbers(values: tuple[Any, ...]) -> None:
    """Refuse great numbers: they are widths and counts."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"a number above {MAX_NUMBER:,} is not accepted by calls")


def concat(*parts: Any) -> str:
    """`a ~ b`, paid for."""
    texts = [str(BUDGET.weigh(part)) for part in parts]
    return "".join(texts)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: Unicode as it is, no HTML escapes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
