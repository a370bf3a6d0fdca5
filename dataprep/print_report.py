"""What `neva-prep convert` says at its end: the report on stdout, advice on stderr."""

from __future__ import annotations

import json
from shlex import quote
from typing import Any

import click
from rich.console import Console

from .plain_text import plain_text
from .report import ConvertReport
from .show_report import show_report


def print_report(report: ConvertReport, given: dict[str, Any]) -> None:
    """Print what happened to every record, as the options say."""
    if given["as_json"]:
        click.echo(json.dumps(report.to_dict(), indent=2))
    elif not given["quiet"]:
        show_report(report, Console(highlight=False))
    if not report.samples:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.rejections.items())
        left_out = f", and {report.filtered:,} are left out" if report.filtered else ""
        all_of = "all " if report.rejected == report.records else ""
        click.echo(
            f"neva-prep: {all_of}{report.rejected:,} records were rejected"
            f"{f' ({reasons})' if reasons else ''}{left_out}; no dataset was made. "
            f"{plain_text(_advice(report))}",
            err=True,
        )
    elif report.rejected and not report.dry_run and not given["as_json"] and not given["quiet"]:
        quarantine = f"{report.out}/quarantine.jsonl"
        click.echo(
            f"{report.rejected:,} rejected: see {quarantine}; fix the records or their images, "
            f"then: neva-prep convert --retry {quote(quarantine)}",
            err=True,
        )


def _advice(report: ConvertReport) -> str:
    if set(report.rejections) == {"missing_image"}:
        return f"Is --images the right folder? {report.examples['missing_image'][0]}"
    if not report.examples:
        return "Ask for less: " + ", ".join(report.filters)
    return "The first one: " + next(iter(report.examples.values()))[0]
