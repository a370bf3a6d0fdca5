"""The command that looks into the flow: inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from .open import Looked
    from .settings import LookSettings


@click.command(
    epilog="""\b
Examples:
  neva-prep inspect shards/
  neva-prep inspect llava.json --images images/ --index 1000
  neva-prep inspect shards/quarantine.jsonl --index 2
  neva-prep inspect shards/ --id 000000033471 --json
  neva-prep inspect shards/ --tokenizer vicuna-7b/ --template v1
  neva-prep inspect shards/ --image-processor clip-vit-large-patch14-336/
  neva-prep inspect shards/ --tokenizer vicuna-7b/ --packed-sequence-size 4096 --pack 3
  neva-prep inspect shards/ --tokenizer vicuna-7b/ --batch
  neva-prep inspect shards/ --tokenizer vicuna-7b/ --html look.html --count 50
  neva-prep inspect shards/ --tokenizer vicuna-7b/ --serve
\b
Exit codes: 0 shown, 3 shown, and the record is broken.
"""
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path), help="Folder, zip or tar of a source's images."
)
@click.option("--split", help="Of a dataset; positions are then those in it.  [default: all]")
@click.option("--index", type=int, help="Position in the dataset, from 0.  [default: 0]")
@click.option("--key", help="Key in the shard; leading zeros may be left out.")
@click.option("--id", "identity", help="Id of the record; found by reading through the records.")
@click.option("--tokenizer", "tokenizer", help="Folder of the tokenizer; shows the tokens.")
@click.option("--template", help="Name, or a .jinja file.  [default: NeMo's, as in training]")
@click.option(
    "--seq-length",
    type=click.IntRange(min=1),
    default=2048,
    show_default=True,
    help="Most positions.",
)
@click.option(
    "--embeddings",
    type=click.IntRange(min=1),
    default=576,
    show_default=True,
    help="Positions of an image's tile.",
)
@click.option("--front", is_flag=True, help="Move images to the front of their turn, as LLaVA.")
@click.option("--image-processor", help="Folder of one; shows images as the model gets them.")
@click.option(
    "--image-size", type=click.IntRange(min=1), help="The same by size: LLaVA-1.5's processing."
)
@click.option("--fit", type=click.Choice(["pad", "crop", "squash"]), help="How it gets square.")
@click.option(
    "--pack", "packs", type=click.IntRange(min=1), help="Show how samples lie in the first N packs."
)
@click.option("--packed-sequence-size", type=click.IntRange(min=1), help="Positions of a pack.")
@click.option(
    "--batch",
    "step",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=0,
    help="Show a batch as the trainer gets it; the STEP-th.  [default: the first]",
)
@click.option(
    "--micro-batch-size",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Samples, if not packed.",
)
@click.option("--shuffle", is_flag=True, help="Draw batches as training draws them.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page to a file instead.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Samples on that page.",
)
@click.option("--serve", is_flag=True, help="Show all in the browser instead.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Of --serve.  [default: a free one]"
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, without pixels.")
@click.pass_context
def inspect(
    ctx: click.Context,
    /,
    dataset: Path,
    images: Path | None,
    split: str | None,
    index: int | None,
    key: str | None,
    identity: str | None,
    packs: int | None,
    step: int | None,
    html: Path | None,
    count: int,
    serve: bool,
    port: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Show what becomes of DATASET at each stop: record, sample, tokens, packs, batches.

    DATASET is a source of any form that convert recognizes, a converted dataset or its
    quarantine.jsonl, or any dataset that `energon prepare` made.
    """
    from .open import open_looked

    if sum(name is not None for name in (index, key, identity)) > 1:
        raise click.UsageError("give one of --index, --key and --id, not several")
    _check_shown(ctx, html=html, serve=serve)
    if html is not None:
        from .page import check_page_file

        check_page_file(html, dataset)
    settings = read_settings(**given)
    if (packs is not None or step is not None) and (settings is None or not settings.has_tokens):
        raise click.UsageError("--pack and --batch need --tokenizer")
    looked = open_looked(dataset, images=images, split=split)
    if serve:
        from ..viewer.serve import serve as run

        run(looked, settings=settings, port=port, open_browser=True)
    elif html is not None:
        from .page import write_page

        start = _find(looked, index, key, identity)
        batches = 1 if step is not None else 0
        write_page(looked, html, count=count, start=start, settings=settings, batches=batches)
        click.echo(f"wrote {html}", err=True)
    elif settings is not None and (packs is not None or step is not None):
        _show_stream(looked, settings, packs=packs, step=step, as_json=as_json)
    else:
        shown = _show_one(looked, _find(looked, index, key, identity), settings, as_json=as_json)
        ctx.exit(0 if shown else 3)


def _check_shown(ctx: click.Context, *, html: Path | None, serve: bool) -> None:
    """Refuse options that would be left unread."""
    if html is not None and serve:
        raise click.UsageError("give one of --html and --serve, not both")
    for option, of, is_given in (("count", "html", html is not None), ("port", "serve", serve)):
        source = ctx.get_parameter_source(option)
        if not is_given and source is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{option} is of --{of}; give that too, or leave it out")


def read_settings(
    *,
    tokenizer: str | None,
    template: str | None,
    seq_length: int,
    embeddings: int,
    front: bool,
    image_processor: str | None,
    image_size: int | None,
    fit: Any,
    packed_sequence_size: int | None,
    micro_batch_size: int,
    shuffle: bool,
) -> LookSettings | None:
    """What training would be given, as the options say; None where they say nothing."""
    from .settings import LookSettings, read_images_as

    if tokenizer is None and template is not None:
        raise click.UsageError("--template needs --tokenizer")
    if tokenizer is None and packed_sequence_size is not None:
        raise click.UsageError("--packed-sequence-size needs --tokenizer")
    sees_images = not (image_processor is None and image_size is None and fit is None)
    if tokenizer is None and not sees_images:
        return None
    loaded = chosen = None
    if tokenizer is not None:
        from ...templates.config import LLaVATemplateConfig, resolve_template
        from ...templates.load import load_tokenizer, pick_template, warn_of_pieces
        from ...templates.reader import tokenizer_of

        processor = load_tokenizer(tokenizer)
        loaded = tokenizer_of(processor)
        chosen = None if template is None else pick_template(template, processor)
        warn_of_pieces(chosen or resolve_template(LLaVATemplateConfig(), processor), processor)
    return LookSettings(
        tokenizer=loaded,
        template=chosen,
        images=read_images_as(image_processor, size=image_size, fit=fit) if sees_images else None,
        seq_length=seq_length,
        packed_sequence_size=packed_sequence_size,
        num_image_embeddings_per_tile=embeddings,
        image_placement="front" if front else "keep",
        micro_batch_size=micro_batch_size,
        shuffle=shuffle,
    )


def _show_one(looked: Looked, index: int, settings: LookSettings | None, *, as_json: bool) -> bool:
    """Show one record as far as it comes; whether it is a sample."""
    from .describe import describe
    from .stops import Flow
    from .terminal import show_record, show_sample
    from .terminal_tokens import show_tokens

    stops = Flow(looked, settings).stops(index)
    if as_json:
        found = describe(stops.record, stops.sample, stops.tokens)
        click.echo(json.dumps(found, indent=2))
        return stops.sample is not None
    console = _console()
    if stops.sample is None:
        show_record(stops.record, console)
        return False
    show_sample(stops.sample, console)
    if stops.tokens is not None:
        show_tokens(stops.tokens, console)
    return True


def _show_stream(
    looked: Looked, settings: LookSettings, *, packs: int | None, step: int | None, as_json: bool
) -> None:
    from dataclasses import replace

    from .batch import view_batches
    from .describe import SCHEMA_VERSION, describe_batch, plain
    from .pack import view_packs
    from .settings import build_module
    from .terminal_tokens import show_batch, show_pack

    if packs is not None and settings.packed_sequence_size is None:
        settings = replace(settings, packed_sequence_size=settings.seq_length)
    found: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    console = _console()
    with build_module(looked, settings) as data:
        if packs is not None:
            found["packs"] = []
            for number, pack in enumerate(view_packs(data, looked, steps=range(packs))):
                found["packs"].append(plain(pack))
                if not as_json:
                    show_pack(pack, console, number=number)
    if step is not None:
        with build_module(looked, settings) as data:
            for batch in view_batches(data, looked, steps=range(step, step + 1)):
                found["batch"] = describe_batch(batch)
                if not as_json:
                    show_batch(batch, console)
    if as_json:
        click.echo(json.dumps(found, indent=2))


def _find(looked: Looked, index: int | None, key: str | None, identity: str | None) -> int:
    if key is not None or identity is not None:
        return looked.find(key=key, id=identity)
    return index or 0


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)
