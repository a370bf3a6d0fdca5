"""Statistics as one page of HTML that needs nothing else: no script, no file, no network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from ..plain_text import plain_text
from ..reasons import REJECTIONS
from .forecast import BUFFER
from .result import DatasetStats, Frequent, TokenStats
from .style import STYLE
from .svg import bar_rows, histogram
from .words import (
    FORECAST_HINT,
    SpreadRow,
    forecast_rows,
    one_line,
    share,
    short_number,
    spread_rows,
    totals,
    uncertainty,
)

_TEXT_CHARS = 300
# Belt and braces: whatever a text of the data might be taken for, nothing is loaded or run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


BEGINS = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    "<title>Statistics of "
)
"""Of the page, and of no other."""


def render_page(found: DatasetStats) -> str:
    """The whole page."""
    return (
        f"{BEGINS}{_safe(Path(found.path).name)}</title>\n</head>\n<body style='margin:0'>\n"
        f"{render_fragment(found)}\n</body>\n</html>\n"
    )


def render_fragment(found: DatasetStats) -> str:
    """What stands on the page, for a page that is there already, such as a notebook."""
    sections = [
        _head(found),
        _left_out(found),
        _tokens(found),
        _section("Spread", _cards(_spread_card(row) for row in spread_rows(found))),
        _images(found),
        _scripts(found),
        _side_by_side(
            _frequent("Most frequent questions", found.questions),
            _frequent("Most frequent answers", found.answers),
        ),
        _frequent("Most used images", found.image_files),
    ]
    return f'<style>{STYLE}</style>\n<div class="neva-stats">\n{"".join(sections)}</div>'


def _head(found: DatasetStats) -> str:
    cells = "".join(
        f"<div><dt>{_safe(name)}</dt><dd>{_figure(value)}</dd></div>"
        for name, value in totals(found)
    )
    split = f", split {found.split}" if found.split else ""
    return (
        f"<header><h1>{_safe(Path(found.path).name)}</h1>"
        f'<p class="quiet">{_safe(found.path + split)}</p></header>\n'
        f'<dl class="totals">{cells}</dl>\n'
    )


def _figure(value: str) -> str:
    """A figure, and what stands behind it in brackets in small."""
    figure, _, note = value.partition("  ")
    return _safe(figure) + (f"<small>{_safe(note.strip('()'))}</small>" if note else "")


def _left_out(found: DatasetStats) -> str:
    parts = []
    if found.left_out:
        rows = _reason_rows(found.left_out, found.examples)
        parts.append(_section("Left out of all other figures", _table(("records", "reason"), rows)))
    if found.quarantined:
        rows = _reason_rows(found.quarantined, {})
        parts.append(
            _section("In quarantine, not in the dataset", _table(("records", "reason"), rows))
        )
    return "".join(parts)


def _reason_rows(
    counts: Mapping[str, int], examples: Mapping[str, list[str]]
) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for reason, count in counts.items():
        example = "".join(
            f'<br><span class="quiet text">{_safe(one_line(message, _TEXT_CHARS))}</span>'
            for message in examples.get(reason, [])[:1]
        )
        fix = _safe(REJECTIONS.get(reason, "")) + example
        rows.append((f"{count:,}", f"<code>{_safe(reason)}</code><br>{fix}"))
    return rows


def _tokens(found: DatasetStats) -> str:
    if found.tokens is None:
        return f'<p class="hint">{_safe(FORECAST_HINT)}</p>'
    tokens = found.tokens
    return _section("Tokens", _token_text(tokens)) + _section("Packing forecast", _forecast(found))


def _token_text(tokens: TokenStats) -> str:
    text = (
        f"<p>Template <code>{_safe(tokens.template)}</code>: {tokens.text.total:,} tokens of text, "
        f"{tokens.positions.total:,} positions with {tokens.image_embeddings} for each image. "
        f"Trained on {tokens.trained.total:,} tokens: {tokens.trained_of_text:.1%} of the text, "
        f"{tokens.trained_of_positions:.1%} of the positions.</p>"
    )
    if tokens.untrained_samples:
        text += (
            f'<p class="warning">{tokens.untrained_samples:,} samples train on no token at all.</p>'
        )
    if tokens.failures:
        rows = _reason_rows(tokens.failures, tokens.examples)
        text += "<h3>Not tokenized</h3>" + _table(("records", "reason"), rows)
    if tokens.events:
        rows = [
            (f"{count:,}", f"<code>{_safe(name)}</code>") for name, count in tokens.events.items()
        ]
        text += "<h3>Escaped or cut</h3>" + _table(("times", "what"), rows)
    return text


def _forecast(found: DatasetStats) -> str:
    bars = [
        (f"{row.pack_length:,}", row.efficiency, f"{row.efficiency:.2%}") for row in found.forecasts
    ]
    chart = _card("Positions that are no padding, by pack length", bar_rows(bars, "full", full=1))
    names, *rows = forecast_rows(found)
    table = _table(
        (names[0], *names[1]),
        [(_safe(name), *values) for name, values in rows],
        numbers=range(1, 1 + len(names[1])),
    )
    note = f"As the loader packs, from buffers of {BUFFER:,} samples in a random order."
    return f'{_side_by_side(chart, table)}<p class="quiet">{note}</p>'


def _images(found: DatasetStats) -> str:
    if not found.formats:
        return ""
    total = sum(found.formats.values())
    formats = [(name, count, share(count, total)) for name, count in found.formats.items()]
    title = "Formats, as paths claim" if found.formats_are_claimed else "Formats"
    cards = [_card(title, bar_rows(formats, title))]
    if found.sizes:
        measured = found.image_files.total - found.unmeasured_images
        sizes = [
            (f"{size.width} × {size.height}", size.count, share(size.count, measured))
            for size in found.sizes
        ]
        cards.append(_card("Most frequent sizes", bar_rows(sizes, "sizes")))
    return _section("Images", _cards(cards))


def _scripts(found: DatasetStats) -> str:
    bars = [
        (use.script, use.mostly, share(use.mostly, found.counted))
        for use in found.scripts
        if use.mostly
    ]
    rows = [
        (_safe(use.script), f"{use.mostly:,}", f"{use.any:,}", f"{use.letters:,}")
        for use in found.scripts
    ]
    names = ("script", "records mostly in it", "records with some", "letters")
    chart = _card("Records by the script of most letters", bar_rows(bars, "scripts"))
    return _section("Scripts", _side_by_side(chart, _table(names, rows, numbers=range(1, 4))))


def _frequent(title: str, frequent: Frequent) -> str:
    if not frequent.top:
        return ""
    rows = [
        (
            f"{use.count:,}",
            share(use.count, frequent.total),
            f'<bdi class="text">{_safe(one_line(use.text, _TEXT_CHARS)) or "(empty)"}</bdi>',
        )
        for use in frequent.top
    ]
    body = f'<p class="quiet">{_safe(uncertainty(frequent))}</p>'
    return _section(title, body + _table(("times", "share", ""), rows, numbers=range(2)))


def _spread_card(row: SpreadRow) -> str:
    spread = row.spread
    points = (
        ("mean", spread.mean),
        ("median", spread.quantiles["median"]),
        ("95 %", spread.quantiles["p95"]),
        ("most", spread.max),
    )
    facts = " · ".join(f"{point} {_safe(short_number(value))}" for point, value in points)
    about = "" if spread.is_exact else " · about"
    return _card(row.name, histogram(spread, row.unit, row.of), f"{facts}{about}")


def _card(title: str, chart: str, note: str = "") -> str:
    small = f"<small>{note}</small>" if note else ""
    return f"<figure><figcaption>{_safe(title)}{small}</figcaption>{chart}</figure>"


def _cards(cards: Iterable[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_safe(title)}</h2>{body}</section>\n"


def _side_by_side(*parts: str) -> str:
    return f'<div class="pair">{"".join(parts)}</div>'


def _table(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[int] = (0,)
) -> str:
    """A table of HTML cells, in some columns of numbers."""

    def cell(tag: str, place: int, content: str) -> str:
        style = ' class="number"' if place in numbers else ""
        return f"<{tag}{style}>{content}</{tag}>"

    head = "".join(cell("th", place, _safe(name)) for place, name in enumerate(names))
    body = "".join(
        f"<tr>{''.join(cell('td', place, value) for place, value in enumerate(row))}</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _safe(text: str) -> str:
    """Text of strangers as HTML; what would steer the reader's eye becomes a visible escape."""
    return escape(plain_text(text))
