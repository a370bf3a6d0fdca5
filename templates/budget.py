"""What a template from a stranger may spend: characters, time, and the size of numbers.

Whatever makes a text or list pays for it, and whatever walks through a value (prints, compares,
sorts it) pays for all that is in it before it does: a list that holds itself twice is made at once
and never walked through to the end.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Sized, ValuesView
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_SOURCE_CHARS = 100_000
"""Longest template."""
MAX_COST = 20_000_000
"""Characters that one rendering may make; a loop turn counts as TURN_COST of them."""
COST_PER_CHAR = 50
"""What each character of the conversation adds to this: long ones cost more."""
TURN_COST = 50
ITEM_COST = 10
"""An item of a list takes the memory of this many characters."""
MAX_SECONDS = 3.0
"""Backstop for costs that are not counted; the budget ends a hostile template long before."""
MAX_NUMBER = 1_000_000
"""Largest product of a text and a number, and largest width."""
MAX_INT = 2**256
"""Largest result of a calculation; identifiers and times are far below."""

_STAR_WIDTH = re.compile(r"%[-+ #0]*[\d.]*\*")
_NESTED_WIDTH = re.compile(r"\{[^{}]*:[^{}]*\{")
_NUMBER = re.compile(r"\d+")


class Budget(threading.local):
    """What the rendering in this thread may still spend."""

    left: int = MAX_COST
    deadline: float = 0.0

    def restart(self, given: Any = None) -> None:
        """Begin a rendering of some variables, or a compilation."""
        self.deadline = time.monotonic() + MAX_SECONDS
        self.left = MAX_INT
        self.left = MAX_COST + COST_PER_CHAR * self.weight(given)

    def spend(self, cost: int) -> None:
        """Pay, or end the rendering.

        Raises:
            SecurityError: the budget or the time is used up.
        """
        self.left -= cost
        if self.left < 0:
            raise SecurityError(f"the template makes more than {MAX_COST:,} characters of work")
        if time.monotonic() > self.deadline:
            raise SecurityError(f"the template runs longer than {MAX_SECONDS:.0f} seconds")

    def turn(self, literal_chars: int) -> None:
        """Pay for one turn of a loop or one call of a macro, with its literal text."""
        self.spend(TURN_COST + literal_chars)

    def pay(self, value: Any) -> Any:
        """Pay for a value that was made, without what is in it, and give it back."""
        if isinstance(value, str | range):
            self.spend(len(value))
        elif isinstance(value, int):
            if abs(value) > MAX_INT:
                raise SecurityError("the template makes a number of more than 256 bits")
            self.spend(1)
        else:
            self.spend(ITEM_COST * len(value) if isinstance(value, Sized) else 1)
        return value

    def weigh(self, value: Any) -> Any:
        """Pay for everything in a value, and give it back: lists of lists grow fast."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, list | tuple | KeysView | ValuesView | ItemsView):
            self.spend(TURN_COST + len(value))
            for inner in value:
                self.weigh(inner)
        elif isinstance(value, Mapping):
            self.spend(TURN_COST)
            for key, inner in value.items():
                self.weigh(key)
                self.weigh(inner)
        elif isinstance(value, Namespace):
            self.weigh(value._Namespace__attrs)
        return value

    def weight(self, value: Any) -> int:
        """What `weigh` takes for a value, paid."""
        before = self.left
        self.weigh(value)
        return before - self.left

    def searched(self, value: Any) -> Any:
        """Pay for a look-up in a value (`in`), and give it back: mappings need no walk."""
        return value if isinstance(value, Mapping) else self.weigh(value)

    def joined(self, *parts: Any) -> str:
        """`a ~ b`, paid for."""
        return "".join([str(self.weigh(part)) for part in parts])


BUDGET = Budget()


def check_join(separator: str, items: Iterable[Any]) -> list[Any]:
    """The items of a join as a list, paid for."""
    listed = [BUDGET.weigh(item) for item in items]
    BUDGET.spend(len(separator) * len(listed))
    return listed


def check_replace(text: str, old: str, new: str) -> None:
    """Pay for the characters that a replacement may add."""
    BUDGET.spend(text.count(old) * len(new))


def check_growth(operator: str, left: Any, right: Any) -> None:
    """Refuse a product or power that would be large, before it is made."""
    if operator == "**":
        too_big = not (_is_small(left, MAX_NUMBER) and _is_small(right, 64))
    elif isinstance(left, Sized) or isinstance(right, Sized):
        many, times = (left, right) if isinstance(left, Sized) else (right, left)
        times = max(times, 0) if isinstance(times, int) else 0
        too_big = len(many) * times > MAX_NUMBER
        if not too_big and not isinstance(many, str):
            BUDGET.spend(BUDGET.weight(many) * times)
    else:
        too_big = False
    if too_big:
        raise SecurityError(f"{operator} would make something larger than {MAX_NUMBER:,}")


def _is_small(value: Any, most: int) -> bool:
    return not isinstance(value, int | float) or abs(value) <= most


def check_format(text: str, opener: str, values: Any) -> None:
    """Pay for a formatted text: each field may show every value, padded to any number in it.

    Args:
        text: the format.
        opener: what begins a field: `%` or `{`.
        values: what it is filled with.
    """
    if (_STAR_WIDTH if opener == "%" else _NESTED_WIDTH).search(text):
        raise SecurityError("a format whose width is a variable is not offered to templates")
    BUDGET.spend(sum(map(int, _NUMBER.findall(text))))
    BUDGET.spend(text.count(opener) * BUDGET.weight(values))


def check_numbers(values: Iterable[Any]) -> None:
    """Refuse great numbers where they are widths and counts."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"a width or count above {MAX_NUMBER:,} is not accepted")


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
