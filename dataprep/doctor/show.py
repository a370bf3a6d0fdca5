"""The doctor's report, for the terminal. Texts of the source are never read as markup."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ..plain_text import plain_text
from ..reasons import REPAIRS, WARNINGS
from .edits import EDITS
from .report import DoctorReport, Fault

_MESSAGE = 400


def show_doctor(report: DoctorReport, console: Console) -> None:
    """Print what a source is, what is wrong with it, and what would repair it."""
    form = report.form
    _line(console, Text(plain_text(report.source), "bold"))
    _line(
        console,
        Text("is ")
        + Text(plain_text(form.title), "cyan")
        + Text(f"  ({plain_text(form.why)})", "dim"),
    )
    if not report.readable:
        _line(console, Text(f"It cannot be read as a whole. {plain_text(report.error)}", "red"))
    elif report.sources:
        count = len(report.sources)
        _line(console, Text(f"convert reads the {count:,} sources that it names.", "green"))
    elif not form.is_read:
        _line(console, Text("convert does not read this form.", "yellow"))
    if report.readable and not report.sources:
        _line(console, _verdict(report))
    for fault in report.faults:
        _show_fault(fault, Path(report.source).name, console)
    _counts(console, "Behind those faults", report.behind, {})
    _counts(console, "convert repairs by itself", report.repairs, REPAIRS)
    _counts(console, "Noticed", report.warnings, WARNINGS)
    if report.fixed is not None:
        _show_fixed(report, console)
    if report.ways_out:
        _line(console, Text("What to do", "bold"))
        for text in report.ways_out:
            _line(console, Text(f"  {plain_text(text)}", "green"))


def _verdict(report: DoctorReport) -> Text:
    if not report.wrong:
        return Text(f"All {report.records:,} records are fine.", "green")
    fix = f"; --fix repairs {report.repairable:,} of them" if report.is_json else ""
    return Text(f"{report.wrong:,} of {report.records:,} records are wrong{fix}.", "yellow")


def _show_fault(fault: Fault, source: str, console: Console) -> None:
    head = Text(f"{fault.records:>7,}  ") + Text(fault.reason, "bold yellow")
    if fault.repairable:
        head += Text(f"  (--fix repairs {fault.repairable:,})", "green")
    _line(console, head)
    _line(console, Text(fault.fix), indent=9)
    for advice, records in fault.advice.items():
        _line(console, Text(f"{records:,} x {plain_text(advice)}", "green"), indent=9)
    for example in fault.examples:
        message = example.message.removeprefix(f"{source}: ").removesuffix(f"; {fault.fix}")
        line = f"line {example.line:,}, " if example.line else ""
        place = "" if example.byte is None else f"{line}byte {example.byte:,}: "
        _line(console, Text(place + plain_text(message[:_MESSAGE]), "dim"), indent=9)


def _counts(console: Console, title: str, counts: dict[str, int], meaning: dict[str, str]) -> None:
    if not counts:
        return
    _line(console, Text(title, "bold"))
    for name, count in counts.items():
        told = f"  {meaning[name]}" if name in meaning else ""
        _line(console, Text(f"{count:>7,}  {name}", "cyan") + Text(told, "dim"))


def _show_fixed(report: DoctorReport, console: Console) -> None:
    fixed = report.fixed
    assert fixed is not None
    taken = report.records - fixed.left
    _counts(console, f"Edits, listed in {plain_text(fixed.diff)}", fixed.edits, EDITS)
    _line(
        console,
        Text(
            f"Wrote {plain_text(fixed.out)}: {fixed.repaired:,} records repaired; convert takes "
            f"{taken:,} of its {report.records:,} records.",
            "yellow" if fixed.left else "green",
        ),
    )
    _counts(console, "Still rejected there", fixed.rejections, {})


def _line(console: Console, text: Text, *, indent: int = 0) -> None:
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent)), highlight=False)
        return
    # Without a terminal nothing is wrapped, so that grep and diff see whole lines.
    console.print(Text(" " * indent) + text, soft_wrap=True, highlight=False)
