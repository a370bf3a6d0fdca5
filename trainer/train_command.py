"""The command `neva-prep train`: a recipe by its name, with changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .editable import Editable

_RECIPES = ("llava15_7b", "llava15_13b", "neva_llama3_8b", "tiny")
_OF_DATA = (
    "images",
    "template",
    "seq_length",
    "pack",
    "micro_batch_size",
    "global_batch_size",
)
"""Options that say nothing of random samples."""
_COUNT = click.IntRange(min=1)
_STOPPED = 143
"""What shells say of a process that SIGTERM has ended."""

_EXAMPLES = """\b
Examples:
  neva-prep train --recipe llava15_7b --peft lora --data shards/ --pack
  neva-prep train --recipe llava15_7b --data chat.json --images img/ --set trainer.max_steps=10
  neva-prep train --recipe llava15_13b --peft none --data shards/ --dry-run
  torchrun --nproc-per-node 8 -m neva_prep.cli train --recipe llava15_7b --data shards/
\b
Exit codes: 0 trained, 1 failure, 2 settings, 143 saved and stopped on SIGTERM.
The same command goes on with a run that was stopped or killed.
"""


@click.command(epilog=_EXAMPLES)
@click.option("--recipe", type=click.Choice(_RECIPES), required=True, help="What to train.")
@click.option(
    "--stage",
    type=click.Choice(["finetune", "pretrain"]),
    default="finetune",
    show_default=True,
    help="Pretraining trains the projector alone.",
)
@click.option("--peft", type=click.Choice(["lora", "none"]), help="Adapters, or the whole.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Dataset, or JSON.  [default: random samples]"
)
@click.option("--images", type=click.Path(path_type=Path), help="Image folder of a JSON.")
@click.option(
    "--processor",
    type=click.Path(path_type=Path),
    help="Folder of tokenizer and image processor.  [default: the weights' own]",
)
@click.option("--template", help="Of conversations, or 'tokenizer'.  [default: NeMo's]")
@click.option("--seq-length", type=_COUNT, help="Most positions of a row.")
@click.option("--pack", is_flag=True, help="Several samples in a row of --seq-length.")
@click.option("--micro-batch-size", type=_COUNT, help="Rows of a batch; 1 with --pack.")
@click.option("--global-batch-size", type=_COUNT, help="Rows of a step, over all ranks.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Readers of each rank.",
)
@click.option("--from", "restore", help="Weights to start from; 'none' for random ones.")
@click.option("--out", default="runs", show_default=True, help="Gets a folder of the run's name.")
@click.option("--name", default="default", show_default=True, help="Of the run.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe.")
@click.option(
    "--profile", is_flag=True, help="Say where the time of a step goes, and what to change."
)
@click.option("--dry-run", is_flag=True, help="Print the recipe, and train nothing.")
@click.pass_context
def train(ctx: click.Context, /, **given: Any) -> None:
    """Train a NeVA model on a dataset: from a recipe, in one process or under torchrun.

    Prints the last checkpoint's path; progress goes to stderr, and a row a step to
    OUT/NAME/train.jsonl.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # It has hints on what else could be installed.
    recipe = make_recipe(given)
    if given["dry_run"]:
        click.echo(recipe)
        return
    from .loop import fit

    report = fit(recipe)
    if int(os.environ.get("RANK", 0)) == 0:
        click.echo(report.checkpoint)
    ctx.exit(_STOPPED if report.stopped else 0)


def make_recipe(given: dict[str, Any]) -> Editable:
    """The recipe that a command line describes.

    Raises:
        ConfigError: the options cannot work together.
    """
    from . import recipes

    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    module = getattr(recipes, given["recipe"])
    arguments = {"dir": given["out"], "name": given["name"]}
    arguments |= {"num_nodes": world // local, "num_gpus_per_node": local}
    if given["peft"] is not None:
        arguments["peft_scheme"] = given["peft"]
    make = getattr(module, f"{given['stage']}_recipe", None)
    if make is None or ("peft_scheme" in arguments and given["stage"] == "pretrain"):
        raise click.UsageError(f"--stage {given['stage']}: {given['recipe']} has no such recipe")
    return _with_data(_changed(make(**arguments), given), given)


def _changed(recipe: Editable, given: dict[str, Any]) -> Editable:
    from .editable import Editable, finished, replace_texts

    changes = {}
    if given["restore"] is not None:
        changes["resume.restore_config.path"] = given["restore"]
    if given["processor"] is not None:
        changes["processor"] = str(given["processor"])
    if given["profile"]:
        changes["trainer.profile"] = "true"
    for change in given["changes"]:
        name, equals, value = change.partition("=")
        if not equals:
            raise click.UsageError(f"--set {change}: write KEY=VALUE")
        if name == "data" or name.startswith("data."):
            raise click.UsageError(f"--set {change}: data has options of its own, such as --data")
        changes[name] = value
    return Editable(replace_texts(finished(recipe), changes))


def _with_data(recipe: Editable, given: dict[str, Any]) -> Editable:
    if given["data"] is None:
        for option in _OF_DATA:
            if given[option]:
                raise click.UsageError(f"--{option.replace('_', '-')} needs --data")
        return recipe
    from .editable import finished
    from .hf_config import resolve
    from .open_data import DataOptions, load_processor, open_data
    from .start import find_start

    start = find_start(finished(recipe))
    if start.files is None:
        raise click.UsageError("--from none: give --processor, too, for the tokenizer")
    settings = recipe.data.settings
    micro = 1 if given["pack"] else settings.read.micro_batch_size
    options = DataOptions(
        path=given["data"],
        images=given["images"],
        template=given["template"],
        seq_length=given["seq_length"] or _default_length(recipe),
        pack=given["pack"],
        micro_batch_size=given["micro_batch_size"] or micro,
        global_batch_size=given["global_batch_size"] or settings.global_batch_size,
        num_workers=given["workers"],
    )
    processor = load_processor(start.files)
    data = open_data(options, processor, resolve(start.neva), finished(recipe.trainer.strategy))
    return recipe.replace(data=data)


def _default_length(recipe: Editable) -> int:
    from .match import row_length

    return row_length(recipe.data)
