"""The commands that check a dataset: verify, and the demo of the main job."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  neva-prep verify shards/
  neva-prep verify shards/ --json
  neva-prep verify s3://bucket/shards
\b
Exit codes: 0 whole, 3 something is off.
"""
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--workers", type=int, default=os.cpu_count() or 1, help="Processes.  [default: all cores]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing; only the exit code tells.")
@click.pass_context
def verify(ctx: click.Context, dataset: Path, workers: int, as_json: bool, quiet: bool) -> None:
    """Re-read all of DATASET: hashes, tars, index, counts, records and images.

    Names the place of everything that is off.
    """
    from rich.console import Console

    from .progress import BytesBar, stderr_console
    from .show_report import show_verified
    from .verify import verify as run

    if as_json or quiet:
        report = run(dataset, workers=workers)
    else:
        with BytesBar(stderr_console(), "Verifying") as bar:
            report = run(dataset, workers=workers, progress=bar.update)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    elif not quiet:
        show_verified(report, Console(highlight=False))
    ctx.exit(report.exit_code)


@click.command(
    epilog="""\b
Examples:
  neva-prep demo
  neva-prep demo somewhere/ --pictures 50 --steps 0 --overwrite
"""
)
@click.argument("folder", type=click.Path(path_type=Path), default=Path("demo-data"))
@click.option(
    "--pictures",
    type=click.IntRange(min=2),
    default=300,
    show_default=True,
    help="How many to draw.",
)
@click.option("--seed", default=0, show_default=True, help="Decides the pictures.")
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=400,
    show_default=True,
    help="Of training a small model; 0 for none.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo in FOLDER.")
def demo(folder: Path, pictures: int, seed: int, steps: int, overwrite: bool) -> None:
    """Show the main job end to end, on pictures drawn into FOLDER.

    Draws shapes with true questions and answers and some broken records, converts them, verifies
    the dataset, shows two samples, and streams an epoch through megatron-energon. Then trains a
    small model on simpler pictures, exports it to Hugging Face and asks it about held-out ones:
    a minute teaches it most colors and numbers, --steps 2000 in some more the rest.
    """
    from rich.console import Console

    from .tour import run_demo

    run_demo(
        folder,
        Console(highlight=False),
        pictures=pictures,
        seed=seed,
        overwrite=overwrite,
        steps=steps,
    )
