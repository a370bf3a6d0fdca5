"""The commands around streaming: plan what each rank reads, trace what it has read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command(
    epilog="""\b
Examples:
  neva-prep plan shards/ --gpus 8 --workers 4 --global-batch-size 128
  neva-prep plan shards/ --gpus 64 --workers 8 --split val --json
"""
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--gpus", "ranks", type=click.IntRange(min=1), required=True, help="Data-parallel ranks."
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Of each rank."
)
@click.option("--split", default="train", show_default=True)
@click.option("--micro-batch-size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--global-batch-size",
    type=click.IntRange(min=1),
    help="Samples of a step.  [default: one a rank]",
)
@click.option(
    "--samples-per-second",
    type=float,
    default=20.0,
    show_default=True,
    help="What one GPU trains on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(dataset: Path, as_json: bool, **given: Any) -> None:
    """Tell how DATASET divides among ranks and workers, and whether it can."""
    from .reading_plan import plan_reading

    given["global_batch_size"] = (
        given["global_batch_size"] or given["ranks"] * given["micro_batch_size"]
    )
    found = plan_reading(dataset, **given)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    fewest, most = found.samples_per_rank
    speed = given["samples_per_second"]
    click.echo(
        f"{found.split}: {found.samples:,} samples in {found.shards:,} shards "
        f"({found.bytes / 1e9:,.2f} GB)\n"
        f"each of {found.ranks:,} ranks: {fewest:,} to {most:,} samples an epoch with "
        f"{found.workers} workers\n"
        f"uneven by {found.uneven_samples:,} samples ({found.uneven_samples / found.samples:.2%})\n"
        f"an epoch: {found.steps_per_epoch:,} steps of {given['global_batch_size']:,} samples\n"
        f"reading: {found.megabytes_per_second:,.1f} MB/s a rank at {speed:g} samples/s, "
        f"{found.megabytes_per_second * found.ranks:,.1f} MB/s in all"
    )


@click.command(
    epilog="""\b
Examples:
  neva-prep trace shards/ 000000042 000000117
  neva-prep trace shards/ --log train.jsonl --step 1200 --json
"""
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("keys", nargs=-1)
@click.option(
    "--log", type=click.Path(path_type=Path), help="JSONL: 'step', '__keys__', '__origins__'."
)
@click.option("--step", type=int, help="The step to look up in --log.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def trace(
    dataset: Path, keys: tuple[str, ...], log: Path | None, step: int | None, as_json: bool
) -> None:
    """Turn KEYS of a batch, or a step of a log, back into source records and tar offsets."""
    from .plain_text import plain_text
    from .trace import SCHEMA_VERSION, keys_of_step, trace_keys

    if (log is None) != (step is None):
        raise click.UsageError("give --log and --step together")
    if log is not None and step is not None:
        found = keys_of_step(log, step, dataset)
        keys = (*keys, *found.keys)
        for name, count in found.others.items():
            click.echo(plain_text(f"step {step}: {count} more samples are of {name}"), err=True)
    if not keys:
        raise click.UsageError("give KEYS, or --log and --step")
    rows = trace_keys(dataset, keys)
    if as_json:
        click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "samples": rows}, indent=2))
        return
    for row in rows:
        record = f"{row['source']}: record {row['record']}, " if row["source"] else ""
        images = f"; images: {', '.join(row['images'])}" if row["images"] else ""
        click.echo(
            plain_text(
                f"{row['key']}: {record}id {row['id']}; {row['shard']} byte {row['offset']:,} "
                f"({row['bytes']:,} bytes){images}"
            )
        )
