"""Statistics for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..plain_text import plain_text
from ..reasons import REJECTIONS
from .forecast import BUFFER
from .result import DatasetStats, Frequent, Spread
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

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SPARKS = 12
_TEXT_CHARS = 60


def show_stats(found: DatasetStats, console: Console) -> None:
    """Print statistics. Texts of the data are never read as markup, nor reach the terminal raw."""
    console.print(Text(plain_text(f"Statistics of {found.path}"), style="bold"))
    console.print(_totals(found))
    _show_left_out(found, console)
    _show_spreads(spread_rows(found), console)
    _show_images(found, console)
    _print("Scripts", _scripts(found), console)
    for title, frequent in (
        ("Most frequent questions", found.questions),
        ("Most frequent answers", found.answers),
        ("Most used images", found.image_files),
    ):
        _show_frequent(title, frequent, console)
    _show_tokens(found, console)


def sparkline(spread: Spread) -> str:
    """A small histogram; where anything was counted, there is something to see.

    Example: `▁▃█▅▂▁ ▁`
    """
    together = -(-len(spread.bars) // _SPARKS)
    counts = [
        sum(bar.count for bar in spread.bars[start : start + together])
        for start in range(0, len(spread.bars), together)
    ]
    most = max(counts)
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // most)] for count in counts)


def _totals(found: DatasetStats) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, value in totals(found):
        table.add_row(name, Text(plain_text(value)))
    return table


def _show_left_out(found: DatasetStats, console: Console) -> None:
    if found.left_out:
        table = _reasons(found.left_out, found.examples, "yellow")
        _print("Left out of all figures below", table, console)
    if found.quarantined:
        table = _reasons(found.quarantined, {}, "cyan")
        _print("In quarantine, not in the dataset", table, console)


def _reasons(counts: Mapping[str, int], examples: Mapping[str, list[str]], style: str) -> Table:
    table = _table()
    table.add_column("records", justify="right")
    table.add_column("reason", style=style, no_wrap=True)
    table.add_column("what fixes it, example", overflow="fold")
    for reason, count in counts.items():
        text = Text(REJECTIONS.get(reason, ""))
        for message in examples.get(reason, [])[:1]:
            text.append(("\n" if text else "") + plain_text(one_line(message, 200)), style="dim")
        table.add_row(f"{count:,}", Text(plain_text(reason)), text)
    return table


def _show_spreads(rows: list[SpreadRow], console: Console) -> None:
    table = _table()
    table.add_column("", no_wrap=True)
    for name in ("mean", "least", "median", "95 %", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", style="green", no_wrap=True)
    for row in rows:
        spread = row.spread
        points = (
            spread.mean,
            spread.min,
            spread.quantiles["median"],
            spread.quantiles["p95"],
            spread.max,
        )
        name = row.name if spread.is_exact else f"{row.name} (about)"
        table.add_row(name, *map(short_number, points), sparkline(spread))
    _print("Spread", table, console)


def _show_images(found: DatasetStats, console: Console) -> None:
    if not found.formats:
        return
    claimed = " (as their paths claim; --images DIR looks)" if found.formats_are_claimed else ""
    total = sum(found.formats.values())
    formats = ", ".join(f"{name} {share(count, total)}" for name, count in found.formats.items())
    console.print(Text(f"\nImage formats{claimed}: ", "bold").append(formats, "not bold"))
    if found.sizes:
        measured = found.image_files.total - found.unmeasured_images
        sizes = ", ".join(
            f"{size.width} × {size.height} {share(size.count, measured)}" for size in found.sizes
        )
        console.print(Text("Most frequent sizes: ", "bold").append(sizes, "not bold"))


def _scripts(found: DatasetStats) -> Table:
    table = _table()
    table.add_column("", no_wrap=True)
    for name in ("records mostly in it", "share", "records with some", "letters"):
        table.add_column(name, justify="right")
    for use in found.scripts:
        table.add_row(
            use.script,
            f"{use.mostly:,}",
            share(use.mostly, found.counted),
            f"{use.any:,}",
            f"{use.letters:,}",
        )
    return table


def _show_frequent(title: str, frequent: Frequent, console: Console) -> None:
    if not frequent.top:
        return
    table = _table()
    table.add_column("times", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for use in frequent.top:
        text = plain_text(one_line(use.text, _TEXT_CHARS)) or "(empty)"
        table.add_row(f"{use.count:,}", share(use.count, frequent.total), Text(text))
    _print(f"{title}: {uncertainty(frequent)}", table, console)


def _show_tokens(found: DatasetStats, console: Console) -> None:
    if found.tokens is None:
        console.print(Text(f"\n{FORECAST_HINT}", "dim"))
        return
    tokens = found.tokens
    head = (
        f"\nTokens with template {tokens.template}: {tokens.text.total:,} of text, "
        f"{tokens.positions.total:,} positions with {tokens.image_embeddings} for each image; "
        f"trained on {tokens.trained.total:,}, {tokens.trained_of_text:.1%} of the text, "
        f"{tokens.trained_of_positions:.1%} of the positions"
    )
    console.print(Text(plain_text(head)))
    if tokens.untrained_samples:
        console.print(
            Text(f"{tokens.untrained_samples:,} samples train on no token at all", "yellow")
        )
    if tokens.failures:
        table = _reasons(tokens.failures, tokens.examples, "yellow")
        _print("Not tokenized", table, console)
    for event, count in tokens.events.items():
        console.print(Text(f"{plain_text(event)}: {count:,}", "dim"))
    title = f"Packing forecast, buffers of {BUFFER:,} samples in random order"
    _print(title, _forecast(found), console)


def _forecast(found: DatasetStats) -> Table:
    names, *rows = forecast_rows(found)
    table = _table()
    table.add_column(names[0], style="cyan", no_wrap=True)
    for length in names[1]:
        table.add_column(length, justify="right", no_wrap=True)
    for name, values in rows:
        table.add_row(name, *values)
    return table


def _print(title: str, table: Table, console: Console) -> None:
    """A table under its title, which may be wider than the table."""
    console.print(Text(f"\n{title}", "bold"))
    console.print(table)


def _table() -> Table:
    return Table(box=None, pad_edge=False)
