"""The command `neva-prep convert`: parses, calls one function, prints the report."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .choosing_options import choosing_options

if TYPE_CHECKING:
    from .options import ConvertOptions
    from .report import ConvertReport
    from .watch import Watch

_CONVERT_EXAMPLES = """\b
Examples:
  neva-prep convert llava_v1_5_mix665k.json --images data/ --out shards/
  neva-prep convert chat.jsonl --images img/ --out shards/ --split train=0.98,val=0.02 --shuffle 1
  neva-prep convert chat.jsonl --images img/ --dry-run
  neva-prep convert chat.jsonl --images img/ --out shards/ --resume
  neva-prep convert chat.jsonl --images img/ --out shards/ --resize 336 --filter 'turns <= 10'
  neva-prep convert a.json b.jsonl --images A/ --images B/ --weight 1 --weight 0.5 --out blend/
  neva-prep convert s3://raw/chat.jsonl --images s3://raw/img --out s3://bucket/shards
  neva-prep convert --retry shards/quarantine.jsonl
  neva-prep convert chat.jsonl --images img/ --out shards/ --task 3/8   # one of 8 machines
  neva-prep convert chat.jsonl --images img/ --out shards/ --finish     # when all 8 have ended
\b
Exit codes: 0 ok, 2 usage, 3 source invalid or nothing converted,
            4 finished with quarantined records, 130 interrupted (go on with --resume).
"""


@click.command(epilog=_CONVERT_EXAMPLES)
@click.argument("sources", nargs=-1, metavar="SOURCE...", type=click.Path(path_type=Path))
@click.option(
    "--images",
    multiple=True,
    type=click.Path(),
    help="Folder, zip, tar or URL of the images; one, or one for each SOURCE.  "
    "[default: the source's folder]",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=float,
    metavar="W",
    help="Of each of several SOURCEs in OUT/metadataset.yaml.  [default: 1]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the dataset; new or empty."
)
@click.option("--shard-size", default="1GB", show_default=True, help="Largest size of a shard.")
@click.option(
    "--shard-count", default=100_000, show_default=True, help="Most samples in one shard."
)
@click.option(
    "--split", default="train=1", show_default=True, help="Shares, e.g. train=0.98,val=0.02."
)
@click.option("--shuffle", type=int, metavar="SEED", help="Shuffle the records with this seed.")
@click.option(
    "--placeholder",
    type=click.Choice(["reject", "insert"]),
    default="reject",
    show_default=True,
    help="An image record without any '<image>'.",
)
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
@click.option(
    "--format",
    default="auto",
    show_default=True,
    help="Form of the JSON records, such as llava, sharegpt, messages, alpaca, vqa; see "
    "docs/formats.md.",
)
@click.option(
    "--columns",
    metavar="FIELD=COLUMN,...",
    help="Columns of a table: image, question, answer, caption, id, conversations.",
)
@click.option(
    "--annotations",
    type=click.Path(),
    help="The answers, where SOURCE has questions of VQAv2.  [default: the file beside it]",
)
@click.option(
    "--reader",
    metavar="MODULE:FUNCTION",
    help="A function of yours that is given SOURCE and yields records in LLaVA's form.",
)
@choosing_options
@click.option(
    "--sample-index/--no-sample-index",
    default=True,
    help="Whether to write index.sqlite; inspect, the viewer and --retry need it, training does "
    "not; see docs/scaling.md.  [default: write it]",
)
@click.option(
    "--on-error",
    type=click.Choice(["quarantine", "fail"]),
    default="quarantine",
    show_default=True,
    help="What a bad record does.",
)
@click.option("--max-errors", metavar="N|P%", help="Stop beyond so many rejected records.")
@click.option("--limit", type=int, help="Only the first so many records.")
@click.option(
    "--layout",
    type=click.Choice(["neva", "vqa", "captioning", "interleaved", "similarity"]),
    default="neva",
    show_default=True,
    help="Type of the samples: conversations, or one of energon's own, which NeMo reads without "
    "this package.",
)
@click.option(
    "--workers", type=int, default=os.cpu_count() or 1, help="Processes.  [default: all cores]"
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Who writes the shards: this machine, or a Ray cluster.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Of the Ray cluster, e.g. auto or host:6379.  [default: RAY_ADDRESS, or this machine]",
)
@click.option(
    "--task",
    metavar="K/N",
    help="Write only each Nth shard, from the Kth on (0 to N-1): one of N tasks that share --out.",
)
@click.option("--finish", is_flag=True, help="Make the dataset of what the tasks wrote.")
@click.option(
    "--spool",
    type=click.Path(),
    metavar="DIR",
    help="Folder for shards on their way to an --out such as s3://bucket/shards.  [default: in "
    "NEVA_PREP_CACHE]",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted conversion.")
@click.option("--overwrite", is_flag=True, help="Replace the dataset in --out.")
@click.option(
    "--retry",
    type=click.Path(path_type=Path),
    metavar="QUARANTINE",
    help="Convert what has been fixed of OUT/quarantine.jsonl, as new shards of OUT.",
)
@click.option("--dry-run", is_flag=True, help="Plan and check everything, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="Print no progress and no report.")
@click.pass_context
def convert(ctx: click.Context, /, **given: Any) -> None:
    """Turn SOURCE and its images into verified shards.

    SOURCE is JSON or JSON lines of any usual form, a table, a Hugging Face dataset or a WebDataset,
    on disk or in an object store; its form is recognized (docs/formats.md).

    Every record ends up in the dataset or in OUT/quarantine.jsonl with its reason. The output is a
    WebDataset and a megatron-energon dataset; its bytes depend on source, options and seed alone.

    Images are stored byte for byte. Only --resize, --max-pixels and --reencode change them: those
    that get smaller lose detail for good, and become upright RGB; all others keep their bytes.
    """
    from .options import ConvertOptions, parse_columns, parse_max_errors, parse_size, parse_split
    from .print_report import print_report
    from .progress import ProgressBar, stderr_console
    from .sources_command import convert_sources, take_sources
    from .watch import Watch

    chosen = {name: given[name] for name in _OPTIONS}
    chosen["shard_size_bytes"] = parse_size(given["shard_size"])
    chosen["split"] = parse_split(given["split"])
    if given["max_errors"] is not None:
        chosen["max_errors"] = parse_max_errors(given["max_errors"])
    if given["columns"] is not None:
        chosen["columns"] = parse_columns(given["columns"])
    options = ConvertOptions(**chosen)
    changes = {name: chosen[name] for name in chosen if _was_given(ctx, name)}
    if given["retry"] is not None:
        _check_retry(given)
    parts = take_sources(given)
    # What was imported stays: the collector need not look through it again and again.
    gc.freeze()
    if given["task"] is not None:
        from .task_command import run_task

        run_task(ctx, given, options)
    try:
        if parts:
            ctx.exit(convert_sources(given, parts, options))
        if given["quiet"] or given["as_json"]:
            report = _convert(given, options, changes, Watch())
        else:
            with ProgressBar(stderr_console(), dry_run=options.dry_run) as bar:
                report = _convert(given, options, changes, bar)
    except KeyboardInterrupt:
        click.echo(
            "neva-prep: interrupted; finished shards are kept. Go on with the same command and "
            "--resume",
            err=True,
        )
        ctx.exit(130)
    print_report(report, given)
    ctx.exit(3 if not report.samples else 4 if report.rejected else 0)


_OPTIONS = (
    "shard_count",
    "shuffle",
    "placeholder",
    "check",
    "pixel_limit",
    "limit",
    "format",
    "annotations",
    "reader",
    "layout",
    "filter",
    "dedup",
    "dedup_by",
    "exclude",
    "exclude_by",
    "resize",
    "max_pixels",
    "reencode",
    "sample_index",
    "on_error",
    "max_errors",
    "workers",
    "engine",
    "ray_address",
    "finish",
    "spool",
    "resume",
    "overwrite",
    "dry_run",
)


def _was_given(ctx: click.Context, option: str) -> bool:
    """Whether the user named an option; --workers has a default that suits --retry too."""
    source = ctx.get_parameter_source(option.removesuffix("_bytes"))
    return option == "workers" or source is not click.core.ParameterSource.DEFAULT


def _check_retry(given: dict[str, Any]) -> None:
    """Refuse what would be left unread beside --retry."""
    if given["sources"]:
        raise click.UsageError(
            f"--retry takes the records of the quarantine alone: leave out {given['sources'][0]}, "
            "or convert it by itself"
        )
    if given["out"] is not None:
        raise click.UsageError(
            "--retry adds to the dataset that the quarantine lies in: leave out --out"
        )


def _convert(
    given: dict[str, Any], options: ConvertOptions, changes: dict[str, Any], watch: Watch
) -> ConvertReport:
    if given["retry"] is not None:
        from .retry import retry

        return retry(given["retry"], images=given["images"], changes=changes, watch=watch)
    from .convert import convert

    if given["source"] is None:
        raise click.UsageError("give the SOURCE to convert, or --retry OUT/quarantine.jsonl")
    if given["out"] is None and not options.dry_run:
        raise click.UsageError("give --out, the folder for the dataset, or --dry-run")
    return convert(
        given["source"], given["images"], given["out"] or Path("dry-run"), options, watch
    )
