"""The command `neva-prep doctor`: parses, calls one function, prints the report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  neva-prep doctor llava.json --images data/
  neva-prep doctor chat.jsonl --images img/ --fix fixed.jsonl
  neva-prep doctor chat.jsonl --images img/ --json
\b
Exit codes: 0 nothing wrong (with --fix: in what was written), 2 usage,
            3 the source cannot be read as a whole, 4 some records are wrong.
"""
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(), help="Folder of the images.  [default: the source's folder]"
)
@click.option(
    "--fix",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write a repaired source, and OUT.diff: what changed in it.",
)
@click.option(
    "--remove-surplus", is_flag=True, help="With --fix: the last '<image>' without an image go."
)
@click.option("--overwrite", is_flag=True, help="With --fix: replace OUT; never SOURCE.")
@click.option(
    "--check",
    type=click.Choice(["header", "decode", "none"]),
    default="header",
    show_default=True,
    help="How closely to look at images.",
)
@click.option(
    "--pixel-limit", default=89_478_485, show_default=True, help="Most pixels of an image."
)
@click.option("--columns", metavar="FIELD=COLUMN,...", help="Of a table; as convert takes them.")
@click.option("--annotations", type=click.Path(), help="Of VQAv2; as convert takes them.")
@click.option("--limit", type=int, help="Only the first so many records; not with --fix.")
@click.option(
    "--workers", type=int, default=os.cpu_count() or 1, help="Processes.  [default: all cores]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def doctor(
    ctx: click.Context,
    source: Path,
    images: str | None,
    fix: Path | None,
    remove_surplus: bool,
    overwrite: bool,
    check: str,
    pixel_limit: int,
    columns: str | None,
    annotations: str | None,
    limit: int | None,
    workers: int,
    as_json: bool,
) -> None:
    """Say what SOURCE is, what is wrong with it, and what would repair it.

    It is checked as convert --dry-run checks it. --fix makes only safe, mechanical edits; what they
    cannot repair stays in OUT as it was, and nothing is left out.
    """
    from rich.console import Console

    from ..options import ConvertOptions, parse_columns
    from ..progress import ProgressBar, stderr_console
    from .doctor import doctor as run
    from .show import show_doctor

    if fix is not None and limit is not None:
        raise click.UsageError("--fix writes every record: leave --limit out")
    options = ConvertOptions(
        check=check,  # type: ignore[arg-type]  # One of the choices.
        pixel_limit=pixel_limit,
        annotations=annotations,
        columns={} if columns is None else parse_columns(columns),
        limit=limit,
        workers=workers,
        dry_run=True,
    )
    with ProgressBar(stderr_console(), dry_run=True) as bar:
        report = run(
            source,
            images,
            options,
            fix=fix,
            overwrite=overwrite,
            remove_surplus=remove_surplus,
            watch=bar,
        )
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        show_doctor(report, Console(highlight=False))
    ctx.exit(report.exit_code)
