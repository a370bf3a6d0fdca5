"""The commands `neva-prep import` and `neva-prep export`: Hugging Face's models and ours."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "import",
    epilog="""\b
Examples:
  neva-prep import hf://llava-hf/llava-1.5-7b-hf
  neva-prep import llava-1.5-7b-hf/ --out llava-7b/
""",
)
@click.argument("source")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The checkpoint.  [default: in NEVA_PREP_CACHE]"
)
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), help="Of weights.  [default: the source's]"
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def import_model(source: str, out: Path | None, precision: str | None, overwrite: bool) -> None:
    """Make a checkpoint of SOURCE, a folder or hf://owner/name of a LLaVA model.

    Prints the checkpoint's path, for `neva-prep train --from`.
    """
    from .hf_import import import_ckpt

    click.echo(import_ckpt(None, source, out, overwrite=overwrite, precision=precision))  # type: ignore[arg-type]


@click.command(
    epilog="""\b
Examples:
  neva-prep export runs/default --out my-llava/
  neva-prep export runs/default/checkpoints/step-00001000 --out my-adapter/ --adapter
"""
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The Hugging Face folder."
)
@click.option("--adapter", is_flag=True, help="Only the adapters, in PEFT's format.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def export(checkpoint: Path, out: Path, adapter: bool, overwrite: bool) -> None:
    """Write CHECKPOINT, or the last one of a run's folder, as a Hugging Face model.

    Adapters are merged into the weights unless --adapter is given. Prints the folder.
    """
    from .saved import export_run
    from .start import restored_checkpoint

    found = restored_checkpoint(str(checkpoint))
    click.echo(export_run(found, out, adapter=adapter, overwrite=overwrite))
