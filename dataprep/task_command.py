"""The part of `neva-prep convert` that does one of several tasks."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import click

from .options import ConvertOptions
from .progress import ProgressBar, stderr_console
from .task import convert_task, parse_task
from .watch import Watch


def run_task(ctx: click.Context, given: dict[str, Any], options: ConvertOptions) -> NoReturn:
    """Do one of several tasks; rejected records are no failure of it: the whole tells them."""
    if given["source"] is None or given["out"] is None or given["retry"] is not None:
        raise click.UsageError("--task needs SOURCE and --out, and no --retry")
    arguments = (given["source"], given["images"], given["out"], options, parse_task(given["task"]))
    try:
        if given["quiet"] or given["as_json"]:
            report = convert_task(*arguments, Watch())
        else:
            with ProgressBar(stderr_console()) as bar:
                report = convert_task(*arguments, bar)
    except KeyboardInterrupt:
        click.echo(
            "neva-prep: interrupted; finished shards are kept. Go on with the same command",
            err=True,
        )
        ctx.exit(130)
    if given["as_json"]:
        click.echo(json.dumps(report.to_dict(), indent=2))
    elif not given["quiet"]:
        click.echo(
            f"Task {report.task}: {report.shards:,} shards ({report.were_there:,} were there), "
            f"{report.samples:,} samples of {report.records:,} records, {report.rejected:,} "
            "rejected. When every task has ended: the same command with --finish for --task."
        )
    ctx.exit(0)
