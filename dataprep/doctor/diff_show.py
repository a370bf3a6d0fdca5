"""The differences, for the terminal. Texts of the rows are never read as markup."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..plain_text import plain_text
from .diff import DiffReport, RowName, SideTotals
from .diff_detail import RowChange, TextChange

_HOW = {
    "id": "by id",
    "repeated_id": "by id, the first with the first, where an id repeats",
    "content": "by content, where an id is missing or has no partner",
}


def show_diff(report: DiffReport, console: Console) -> None:
    """Print what both sides hold, and how they differ."""
    console.print(_totals(report.a, report.b))
    for name, count in report.matched_by.items():
        if count:
            _line(console, Text(f"{count:,} rows matched {_HOW[name]}", "dim"))
    for side, option in ((report.a, "--images-a"), (report.b, "--images-b")):
        if side.missing_images:
            _line(
                console,
                Text(
                    f"{side.missing_images:,} images of {plain_text(side.path)} are missing, and "
                    f"count by their path: is {option} the right folder?",
                    "yellow",
                ),
            )
    for row in report.changed_rows:
        _show_change(row, console)
    _rest(console, len(report.changed_rows), report.changed, "changed")
    for sign, style, rows, count, what in (
        ("-", "red", report.removed_rows, report.removed, "removed"),
        ("+", "green", report.added_rows, report.added, "added"),
    ):
        for row_name in rows:
            _line(console, Text(f"{sign} {_called(row_name)}", style))
        _rest(console, len(rows), count, what)
    _line(console, _verdict(report))


def _verdict(report: DiffReport) -> Text:
    if report.is_same:
        return Text(f"The same: {report.unchanged:,} rows.", "bold green")
    inside = ", ".join(f"{name} {count:,}" for name, count in report.changed_in.items())
    parts = [
        f"{report.changed:,} changed" + (f" ({inside})" if inside else ""),
        f"{report.removed:,} removed",
        f"{report.added:,} added",
        f"{report.unchanged:,} unchanged",
        *(f"{count:,} moved {plain_text(move)}" for move, count in report.moved.items()),
    ]
    return Text("Different: " + ", ".join(parts) + ".", "bold yellow")


def _totals(a: SideTotals, b: SideTotals) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("A", justify="right")
    table.add_column("B", justify="right")
    table.add_column("B - A", justify="right")
    table.add_row("", Text(plain_text(a.path)), Text(plain_text(b.path)), "")
    table.add_row("kind", a.kind, b.kind, "")
    names = ("rows", "turns", "images", "image_bytes", "missing_images", "without_id")
    for name in (*names, "tokens", "trained", "without_tokens"):
        left, right = getattr(a, name), getattr(b, name)
        if left is None or (name.startswith(("without", "missing")) and not left and not right):
            continue
        table.add_row(name.replace("_", " "), f"{left:,}", f"{right:,}", _signed(right - left))
    if a.tokens and b.tokens and a.trained is not None and b.trained is not None:
        left, right = a.trained / a.tokens, b.trained / b.tokens
        points = f"{100 * (right - left):+.2f} points"
        table.add_row("trained fraction", f"{left:.2%}", f"{right:.2%}", points)
    for split in dict.fromkeys((*a.splits, *b.splits)):
        left, right = a.splits.get(split, 0), b.splits.get(split, 0)
        table.add_row(
            Text(f"in {plain_text(split)}"), f"{left:,}", f"{right:,}", _signed(right - left)
        )
    return table


def _signed(number: int) -> str:
    return f"{number:+,}" if number else "="


def _show_change(row: RowChange, console: Console) -> None:
    head = f"~ record {row.index_a}"
    if row.index_b != row.index_a:
        head += f" -> {row.index_b}"
    if row.id_a == row.id_b:
        head += "" if row.id_a is None else f"  id {plain_text(row.id_a)}"
    else:
        head += f"  id {plain_text(row.id_a or 'none')} -> {plain_text(row.id_b or 'none')}"
    if row.split_a and row.split_b and row.split_a != row.split_b:
        head += f"  moved {plain_text(row.split_a)} -> {plain_text(row.split_b)}"
    _line(console, Text(head, "bold"))
    for turn in row.turns:
        role = turn.new_role if turn.old_role in (None, turn.new_role) else turn.old_role
        changed = turn.old_role is not None and turn.new_role not in (None, turn.old_role)
        name = f"{turn.old_role} -> {turn.new_role}" if changed else f"{role or turn.old_role}"
        _line(console, Text(f"turn {turn.number} {plain_text(name)}", "cyan"), indent=2)
        if turn.old_role is not None:
            _line(console, _side("-", "red", turn.text, turn.text.old), indent=4)
        if turn.new_role is not None:
            _line(console, _side("+", "green", turn.text, turn.text.new), indent=4)
    for image in row.images:
        _line(console, Text(f"image {image.number} {plain_text(image.path)}", "cyan"), indent=2)
        _sides(console, image.old, image.new)
    for field in row.fields:
        _line(console, Text(f"field {plain_text(field.name)}", "cyan"), indent=2)
        _sides(console, field.old, field.new)


def _sides(console: Console, old: str | None, new: str | None) -> None:
    for sign, style, value in (("-", "red", old), ("+", "green", new)):
        if value is not None:
            _line(console, Text(f"{sign} {plain_text(value)}", style), indent=4)


def _side(sign: str, style: str, text: TextChange, middle: str) -> Text:
    line = Text(f"{sign} ", style)
    line.append(_one_line(text.before), "dim")
    line.append(_one_line(middle), f"{style} underline")
    line.append(_one_line(text.after), "dim")
    return line


def _one_line(text: str) -> str:
    return plain_text(text).replace("\n", "\\n")


def _called(row: RowName) -> str:
    name = "" if row.id is None else f"  id {plain_text(row.id)}"
    split = f"  in {plain_text(row.split)}" if row.split else ""
    return f"record {row.index}{name}{split}: {_one_line(row.text)}"


def _rest(console: Console, shown: int, count: int, what: str) -> None:
    if count > shown:
        _line(console, Text(f"... and {count - shown:,} more {what}", "dim"))


def _line(console: Console, text: Text, *, indent: int = 0) -> None:
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent)), highlight=False)
        return
    # Without a terminal nothing is wrapped, so that grep and diff see whole lines.
    console.print(Text(" " * indent) + text, soft_wrap=True, highlight=False)
