"""Charts as SVG, drawn here: no script, no network, colours from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .result import Spread
from .words import one_line, short_number

_WIDTH, _HEIGHT = 360, 196
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 34
_GRID_LINES = 4
_X_LABELS = 5
_GAP = 1.5
_ROW = 24
_LETTER = 6.8
"""Width of a letter, or a little more."""
_LABEL_CHARS = 18


def histogram(spread: Spread, unit: str, of: str) -> str:
    """The bars of a spread over an axis of numbers; what lies above them all stands apart.

    Args:
        spread: the numbers.
        unit: name of the horizontal axis.
        of: name of the vertical axis: what is counted.
    """
    bars = spread.bars
    top, step = _grid(max(bar.count for bar in bars))
    width = (_WIDTH - _LEFT - _RIGHT) / len(bars)
    room = _HEIGHT - _TOP - _BOTTOM
    base = _TOP + room
    parts = [_text(2, 12, of, "start", "name")]
    for line in range(0, top + 1, step):
        y = base - room * line / top
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "grid" if line else "axis"))
        parts.append(_text(_LEFT - 6, y + 4, short_number(line), "end"))
    for place, bar in enumerate(bars):
        height = room * bar.count / top
        # What is there must be seen, be it ever so little.
        height = max(height, 1.5) if bar.count else 0
        style = "bar rest" if _is_rest(spread, place) else "bar"
        tip = f"{_range(bar.start, bar.stop)}: {bar.count:,}"
        x, y = _LEFT + place * width + _GAP / 2, base - height
        parts.append(_box(x, y, max(width - _GAP, 1), height, style, tip))
    parts += _x_labels(spread, width, base)
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 3, unit, "middle", "name"))
    label = f"{of} by {unit}: from {spread.min:,} to {spread.max:,}, mean {spread.mean:,.1f}"
    return _svg(_WIDTH, _HEIGHT, label, parts)


def bar_rows(rows: Sequence[tuple[str, float, str]], label: str, *, full: float = 0) -> str:
    """A horizontal bar for each name.

    Args:
        rows: name, number, and the number as it is told.
        label: what the chart shows.
        full: the number of a bar that takes all the room; 0 for the largest of the rows.
    """
    most = full or max((number for _, number, _ in rows), default=1) or 1
    names = [one_line(name, _LABEL_CHARS) for name, _, _ in rows]
    left = max(map(len, names), default=0) * _LETTER + 8
    right = max((len(told) for _, _, told in rows), default=0) * _LETTER + 8
    room = _WIDTH - left - right
    parts = []
    for place, (name, number, told) in enumerate(rows):
        y = place * _ROW
        parts.append(_text(left - 8, y + 16, names[place], "end", "name"))
        length = max(room * number / most, 1.5 if number else 0)
        parts.append(_box(left, y + 5, room, _ROW - 10, "track", ""))
        parts.append(_box(left, y + 5, length, _ROW - 10, "bar", f"{name}: {told}"))
        parts.append(_text(left + room + 8, y + 16, told, "start"))
    return _svg(_WIDTH, max(len(rows), 1) * _ROW, label, parts)


def _x_labels(spread: Spread, width: float, base: float) -> list[str]:
    """Some of the numbers under the axis, never more than there is room for."""
    bars = spread.bars
    parts = [_line(_LEFT, base, _WIDTH - _RIGHT, base, "axis")]
    # A bar that counts one number has it below its middle, any other its least at its left end.
    shift = width / 2 if bars[0].stop - bars[0].start == 1 else 0
    every = -(-len(bars) // _X_LABELS)
    has_rest = _is_rest(spread, len(bars) - 1)
    last = len(bars) - 1
    for place in range(0, len(bars), every):
        if has_rest and place > last - 0.8 * every:
            continue
        x = _LEFT + place * width + shift
        parts.append(_line(x, base, x, base + 4, "axis"))
        parts.append(_text(x, base + 16, short_number(bars[place].start), "middle"))
    if has_rest:
        told = f"≥ {short_number(bars[last].start)}"
        parts.append(_text(_WIDTH - _RIGHT, base + 16, told, "end"))
    return parts


def _is_rest(spread: Spread, place: int) -> bool:
    """Whether a bar is the last one that holds everything above the others."""
    bars = spread.bars
    widths = [bar.stop - bar.start for bar in (bars[0], bars[place])]
    return place > 0 and place == len(bars) - 1 and widths[0] != widths[1]


def _grid(most: int) -> tuple[int, int]:
    """Where the vertical axis ends, and the step of its lines: 1, 2 or 5 times a power of ten."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            lines = -(-most // step)
            if lines <= _GRID_LINES:
                return max(lines, 1) * step, step
        power *= 10


def _range(start: int, stop: int) -> str:
    return f"{start:,}" if stop - start == 1 else f"{start:,} to {stop - 1:,}"


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _box(x: float, y: float, width: float, height: float, style: str, tip: str) -> str:
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'class="{style}">{title}</rect>'
    )


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">'
        f"{escape(text)}</text>"
    )
