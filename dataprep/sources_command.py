"""The part of `neva-prep convert` that takes several sources."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from .options import ConvertOptions
from .print_report import print_report
from .progress import ProgressBar, stderr_console
from .sources import Part, convert_several, parts_of, read_meta
from .watch import Watch


def take_sources(given: dict[str, Any]) -> list[Part]:
    """Tell several sources from one, which is put under `source`, and its images under `images`.

    Args:
        given: of the command line; `sources` and `images` as they were given.

    Returns:
        The sources where there are several, or none.

    Raises:
        UsageError: options are given that do not go with their number.
        ConfigError: see `sources.parts_of`.
    """
    sources, images, weights = given["sources"], given["images"], given["weights"]
    is_meta = len(sources) == 1 and read_meta(sources[0]) is not None
    if (is_meta or len(sources) > 1) and given["retry"] is None:
        if given["task"] is not None:
            raise click.UsageError("--task is for one SOURCE; convert each by itself")
        return parts_of(sources, images, weights)
    if weights:
        raise click.UsageError("--weight is for several SOURCEs")
    if len(images) > 1:
        raise click.UsageError("--images is given more often than SOURCE")
    given["source"], given["images"] = next(iter(sources), None), next(iter(images), None)
    return []


def convert_sources(given: dict[str, Any], parts: list[Part], options: ConvertOptions) -> int:
    """Convert several sources, print what happened, and return the exit code."""

    def watch(number: int, part: Part) -> AbstractContextManager[Watch]:
        if given["quiet"] or given["as_json"]:
            return nullcontext(Watch())
        click.echo(f"Source {number} of {len(parts)}: {part.source}", err=True)
        return ProgressBar(stderr_console(), dry_run=options.dry_run)

    if given["out"] is None and not options.dry_run:
        raise click.UsageError("give --out, the folder for the datasets, or --dry-run")
    report = convert_several(parts, given["out"] or Path("dry-run"), options, watch)
    if given["as_json"]:
        click.echo(json.dumps(report.to_dict(), indent=2))
    elif not given["quiet"]:
        for each in report.reports.values():
            print_report(each, given)
        if report.metadataset:
            click.echo(f"Blend of {len(parts)} datasets: {report.metadataset}")
    return report.exit_code
