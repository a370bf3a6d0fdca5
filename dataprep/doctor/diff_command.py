"""The command `neva-prep diff`: parses, calls one function, prints the differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..stats.tokens import Tokenizing


@click.command(
    epilog="""\b
Examples:
  neva-prep diff shards-v1/ shards-v2/
  neva-prep diff llava.json shards/ --images-a data/
  neva-prep diff chat.jsonl fixed.jsonl --images-a img/ --images-b img/ --limit 100
  neva-prep diff shards-v1/ shards-v2/ --template v1 --tokenizer vicuna-7b/ --json
\b
Exit codes: 0 the same, 1 different, 2 usage, 3 one of them cannot be read.
"""
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--images-a",
    type=click.Path(path_type=Path),
    help="Image folder of A, a source.  [default: A's folder]",
)
@click.option(
    "--images-b",
    type=click.Path(path_type=Path),
    help="Image folder of B, a source.  [default: B's folder]",
)
@click.option("--tokenizer", "folder", help="Tokenizer folder: count tokens too.")
@click.option("--template", help="Name, or a .jinja file.  [default: tokenizer's]")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Rows to show of each kind.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@click.pass_context
def diff(
    ctx: click.Context,
    a: Path,
    b: Path,
    images_a: Path | None,
    images_b: Path | None,
    folder: str | None,
    template: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Say how B differs from A: rows added, removed, changed, moved; images; tokens.

    Each is a source of any form that convert recognizes, or the folder or address of a converted
    dataset. The order of rows counts for nothing.
    """
    from rich.console import Console

    from ...loaders.remote import is_remote
    from ..progress import BytesBar, stderr_console
    from .diff import diff as run
    from .diff_show import show_diff

    for path in (a, b):
        if not path.exists() and not is_remote(path):
            raise click.UsageError(f"{path} does not exist")
    tokenizing = _tokenizing(folder, template)
    with BytesBar(stderr_console(), "Reading") as bar:
        report = run(
            a,
            b,
            images_a=images_a,
            images_b=images_b,
            tokenizing=tokenizing,
            limit=limit,
            progress=lambda _, done, total: bar.update(done, total),
        )
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        show_diff(report, Console(highlight=False))
    ctx.exit(report.exit_code)


def _tokenizing(folder: str | None, template: str | None) -> Tokenizing | None:
    if folder is None:
        if template is not None:
            raise click.UsageError("--template is about tokens; give --tokenizer too")
        return None
    from ...templates.load import load_tokenizer, pick_template
    from ..stats.tokens import Tokenizing

    tokenizer = load_tokenizer(folder)
    return Tokenizing(tokenizer=tokenizer, template=pick_template(template, tokenizer))
