"""The command `neva-prep stats`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .tokens import Tokenizing


@click.command(
    epilog="""\b
Examples:
  neva-prep stats shards/
  neva-prep stats llava.json --images images/
  neva-prep stats shards/ --template v1 --tokenizer vicuna-7b/ --global-batch-size 128
  neva-prep stats shards/ --split train --html stats.html --json > stats.json
\b
Exit codes: 0 all counted, 3 nothing to count, 4 some records were left out.
"""
)
@click.argument("path", metavar="DATASET|SOURCE", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path), help="Image folder of a SOURCE: look at images."
)
@click.option("--split", help="Only this split of a DATASET.  [default: all]")
@click.option("--tokenizer", "folder", help="Tokenizer folder: count tokens, forecast packs.")
@click.option("--template", help="Name, or a .jinja file.  [default: tokenizer's]")
@click.option(
    "--front", is_flag=True, help="Move images to the front of their turn, as LLaVA does."
)
@click.option(
    "--image-embeddings",
    type=click.IntRange(min=1),
    default=576,
    show_default=True,
    help="Positions of an image, as one tile.",
)
@click.option("--global-batch-size", type=int, help="Packs of a step, to count an epoch's steps.")
@click.option("--top", type=int, default=10, show_default=True, help="Most frequent to list.")
@click.option(
    "--workers", type=int, default=os.cpu_count() or 1, help="Processes.  [default: all cores]"
)
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with charts.")
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON.")
@click.pass_context
def stats(
    ctx: click.Context,
    path: Path,
    images: Path | None,
    split: str | None,
    folder: str | None,
    template: str | None,
    front: bool,
    image_embeddings: int,
    global_batch_size: int | None,
    top: int,
    workers: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Count what a DATASET or SOURCE holds, and forecast how it packs.

    Counts, sizes, turns, lengths, formats, scripts, repeated images, frequent texts; with a
    tokenizer also token lengths, the trained fraction, and packs of 2048, 4096 and 8192.
    """
    from rich.console import Console

    from ...loaders.remote import is_remote
    from ...templates.out_file import check_out_file, write_out_file
    from ..progress import BytesBar, stderr_console
    from ..stores.table_files import is_pattern
    from .page import BEGINS, render_page
    from .run import stats as run
    from .show import show_stats

    if not path.exists() and not is_remote(path) and not is_pattern(path):
        raise click.UsageError(f"{path} does not exist")
    if html is not None:
        check_out_file("--html", html, given=[path], begins=BEGINS.encode())
    tokenizing = _tokenizing(folder, template, front, image_embeddings, global_batch_size)
    with BytesBar(stderr_console(), "Counting") as bar:
        found = run(
            path,
            images=images,
            split=split,
            tokenizing=tokenizing,
            global_batch_size=global_batch_size,
            top=top,
            workers=workers,
            progress=bar.update,
        )
    if html is not None:
        write_out_file("--html", html, render_page(found).encode())
        click.echo(f"written: {html}", err=True)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show_stats(found, Console(highlight=False))
    has_failures = found.tokens is not None and found.tokens.failures
    ctx.exit(4 if has_failures or found.seen > found.counted else 0)


def _tokenizing(
    folder: str | None,
    template: str | None,
    front: bool,
    image_embeddings: int,
    global_batch_size: int | None,
) -> Tokenizing | None:
    if folder is None:
        if template is not None or front or global_batch_size is not None:
            raise click.UsageError(
                "--template, --front and --global-batch-size are about tokens; give --tokenizer too"
            )
        return None
    from ...templates.load import load_tokenizer, pick_template
    from .tokens import Tokenizing

    tokenizer = load_tokenizer(folder)
    return Tokenizing(
        tokenizer=tokenizer,
        template=pick_template(template, tokenizer),
        front=front,
        image_embeddings=image_embeddings,
    )
