"""A checkpoint of a run as a model: its weights with adapters in them, or as a folder to serve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .apart import check_apart, whole_folder
from .lora import LoRA, add_lora
from .merge import without_adapters
from .parallel_config import ComputeConfig
from .weights import checkpoint_config, hf_files, load_weights, weights_folder

_LORA = "lora.json"


def lora_path(checkpoint: Path) -> Path:
    """Where the settings of a checkpoint's adapters are."""
    return checkpoint / "context" / _LORA


def saved_lora(checkpoint: Path) -> LoRA | None:
    """The adapters that a checkpoint has."""
    path = lora_path(checkpoint)
    return LoRA(**json.loads(path.read_text())) if path.is_file() else None


def load_merged(stages: Sequence[Any], checkpoint: Path) -> None:
    """Fill this rank's stages with a checkpoint's weights; its adapters become part of them.

    Raises:
        ConfigError: the checkpoint cannot be read into the model.
    """
    from .model import freeze

    lora = saved_lora(checkpoint)
    if lora is not None:
        add_lora(stages, lora)
    load_weights(stages, weights_folder(checkpoint))
    if lora is not None:
        without_adapters(stages)
        for stage in stages:
            stage.requires_grad_(True)
            freeze(stage)


def export_run(
    checkpoint: Path, target: Path, *, adapter: bool = False, overwrite: bool = False
) -> Path:
    """Write a checkpoint as a Hugging Face folder.

    Args:
        checkpoint: of a run, or imported.
        target: the folder.
        adapter: only the adapters, in PEFT's format; else they are merged into the weights.
        overwrite: replace what is there.

    Raises:
        ConfigError: the folder is there already or would take the checkpoint's place, or there
            are no adapters to write.
    """
    from .adapter import write_adapter
    from .hf_import import export_ckpt, stored_precision
    from .hf_write import write_hf_folder
    from .models import NevaModel
    from .one_rank import one_rank

    check_apart(checkpoint, target)
    lora = saved_lora(checkpoint)
    if lora is None:
        if adapter:
            raise ConfigError(f"{checkpoint}: has no adapters; export it without --adapter")
        return export_ckpt(checkpoint, target, overwrite=overwrite)
    with whole_folder(checkpoint, target, overwrite=overwrite) as part, one_rank():
        compute = ComputeConfig(precision=stored_precision(checkpoint), initialize=False)
        model = NevaModel(checkpoint_config(checkpoint)).build(compute=compute)
        if adapter:
            add_lora([model], lora)
            load_weights([model], weights_folder(checkpoint))
            write_adapter([model], part, dropout=lora.dropout, files=hf_files(checkpoint))
        else:
            load_merged([model], checkpoint)
            write_hf_folder(model, part, files=hf_files(checkpoint))
    return target
