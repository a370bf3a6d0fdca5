"""The report of a conversion, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .plain_text import plain_text
from .reasons import REJECTIONS, REPAIRS, WARNINGS
from .report import ConvertReport
from .verify import VerifyReport


def show_report(report: ConvertReport, console: Console) -> None:
    """Print what happened to every record. Texts of the source are never read as markup."""
    head = "Checked, nothing written" if report.dry_run else f"Dataset {report.out}"
    if not report.samples:
        head = "No dataset: every record was rejected" + " or left out" * (report.filtered > 0)
    console.print(Text(head, style="bold"))
    console.print(_totals(report))
    console.print(
        _reasons("Rejected", report.rejections, REJECTIONS, report.examples, "what fixes it")
    )
    console.print(_left_out(report.filters))
    console.print(_reasons("Repaired", report.repairs, REPAIRS, {}, ""))
    console.print(_reasons("Noticed", report.warnings, WARNINGS, report.warning_examples, ""))


def show_verified(report: VerifyReport, console: Console) -> None:
    """Print what was read of a dataset, and everything that is off."""
    console.print(
        f"Read {report.shards:,} shards, {report.samples:,} samples, {report.images:,} images, "
        f"{report.turns:,} turns ({_bytes(report.bytes)})"
    )
    for finding in report.findings:
        console.print(Text(plain_text(str(finding)), "red"), soft_wrap=True)
    if report.found > len(report.findings):
        console.print(f"... and {report.found - len(report.findings):,} more")
    verdict = f"{report.found:,} findings: not whole" if report.found else "Nothing is off: whole"
    console.print(Text(verdict, "bold red" if report.found else "bold green"))


def _totals(report: ConvertReport) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan")
    table.add_column()
    share = f" ({report.rejected / report.records:.1%})" if report.rejected else ""
    splits = ", ".join(f"{name} {count:,}" for name, count in report.splits.items())
    table.add_row("records", f"{report.records:,}")
    table.add_row("samples", f"{report.samples:,}" + (f"  ({splits})" if splits else ""))
    table.add_row("rejected", Text(f"{report.rejected:,}{share}", "yellow" if share else ""))
    if report.filtered:
        table.add_row("left out", f"{report.filtered:,} ({report.filtered / report.records:.1%})")
    table.add_row("images", f"{report.images:,}  ({_bytes(report.image_bytes)})")
    if report.changed_images:
        saved = _bytes(report.saved_bytes) if report.saved_bytes >= 0 else "nothing"
        table.add_row("", f"{report.changed_images:,} made smaller, which saved {saved}")
    table.add_row("turns", f"{report.turns:,}")
    table.add_row("shards", f"{report.shards:,}  ({_bytes(report.bytes)})")
    if report.seconds:
        table.add_row("time", ", ".join(f"{name} {s:.2f} s" for name, s in report.seconds.items()))
    return table


def _reasons(
    title: str,
    counts: Mapping[str, int],
    meaning: Mapping[str, str],
    examples: Mapping[str, list[str]],
    meaning_title: str,
) -> Table | Text:
    if not counts:
        return Text()
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("records", justify="right")
    table.add_column("reason", style="yellow" if title == "Rejected" else "cyan", no_wrap=True)
    table.add_column(meaning_title, overflow="fold")
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        lines = [
            meaning[reason],
            *(
                plain_text(line).removesuffix(f"; {meaning[reason]}")
                for line in examples.get(reason, [])[:1]
            ),
        ]
        text = Text(lines[0])
        for line in lines[1:]:
            text.append(f"\n{line}", style="dim")
        table.add_row(f"{count:,}", reason, text)
    return table


def _left_out(filters: Mapping[str, int]) -> Table | Text:
    if not filters:
        return Text()
    table = Table(title="Left out", title_justify="left", title_style="bold", box=None)
    table.add_column("records", justify="right")
    table.add_column("did not pass", overflow="fold")
    for name, count in filters.items():
        table.add_row(f"{count:,}", Text(plain_text(name)))
    return table


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
