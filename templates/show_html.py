"""Small pieces of HTML, with which objects show themselves in notebooks.

All text in them is a stranger's: it is escaped, cut, and what steers its reader is spelled out.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_CHARACTERS = 2_000
MAX_PARTS = 100
_HARMLESS = frozenset("\n\t\u200c\u200d")
_TRAINED = "background:#2da44e33;text-decoration:underline"
_COLOURS = ("#2da44e", "#0969da", "#bf8700", "#8250df")


def safe(text: Any, limit: int = MAX_CHARACTERS) -> str:
    r"""A text as HTML: escaped, cut with the number of characters left out, nothing invisible.

    Example:
        >>> safe("<b>\u202e")
        '&lt;b&gt;\\u202e'
    """
    text = str(text)
    rest = len(text) - limit
    shown = html.escape("".join(map(_visible, text[:limit])))
    return shown if rest <= 0 else f"{shown}… and {rest:,} more characters"


def facts(title: str, rows: Mapping[str, Any]) -> str:
    """A title and a table of named values."""
    lines = "".join(
        f'<tr><td style="text-align:left">{safe(name)}</td>'
        f'<td style="text-align:left">{safe(value)}</td></tr>'
        for name, value in first(list(rows.items()))
    )
    return f"<div><b>{safe(title)}</b><table>{lines}</table>{more(len(rows))}</div>"


def turns(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation of either dialect."""
    lines = "".join(
        f"<p><b>{safe(turn.get('role', turn.get('from', '')))}</b><br>"
        f'<span style="white-space:pre-wrap">{safe(turn.get("content", turn.get("value", "")))}'
        "</span></p>"
        for turn in first(messages)
    )
    return f"<div>{lines}{more(len(messages))}</div>"


def token_ids(ids: Sequence[int], trained: Sequence[bool]) -> str:
    """Ids in a row, the trained ones marked by colour and underline."""
    shown = [
        f'<span style="{_TRAINED}">{int(number)}</span>' if on else str(int(number))
        for number, on in zip(ids[:MAX_CHARACTERS], trained[:MAX_CHARACTERS], strict=True)
    ]
    rest = len(ids) - len(shown)
    left_out = f" … and {rest:,} more" if rest > 0 else ""
    return f'<code style="white-space:normal">{" ".join(shown)}{left_out}</code>'


def bar(parts: Iterable[tuple[str, int, int]]) -> str:
    """A row as a bar.

    Args:
        parts: name, length and padding of each sample in it.
    """
    cells = "".join(
        f'<span title="{safe(name)}: {size}" style="flex:{size};background:'
        f'{_COLOURS[number % len(_COLOURS)]};height:1.2em"></span>'
        f'<span style="flex:{padding}"></span>'
        for number, (name, size, padding) in enumerate(parts)
    )
    return f'<div style="display:flex;border:1px solid;max-width:60em">{cells}</div>'


def first(items: Sequence[Any]) -> Sequence[Any]:
    """As many as are shown."""
    return items[:MAX_PARTS]


def more(count: int) -> str:
    """What is said of the others."""
    return f"<p>… and {count - MAX_PARTS:,} more</p>" if count > MAX_PARTS else ""


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if character in _HARMLESS or (category[0] != "C" and category not in ("Zl", "Zp")):
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
