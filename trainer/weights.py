"""Weights in megatron-core's distributed format, and what belongs to them.

checkpoint/
weights/             torch_dist: loads into any layout over ranks
context/model.json   the model's config
context/hf/          tokenizer and processor files, and weights that only export needs
"""

from __future__ import annotations

import queue
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from .compat import prepare_megatron
from .config import NevaConfig
from .config_file import read_config_file

_WEIGHTS, _CONTEXT = "weights", "context"


def weights_folder(checkpoint: Path) -> Path:
    """Where the weights are."""
    return checkpoint / _WEIGHTS


def config_path(checkpoint: Path) -> Path:
    """Where the model's config is."""
    return checkpoint / _CONTEXT / "model.json"


def hf_files(checkpoint: Path) -> Path:
    """Where the files of Hugging Face's folder are."""
    return checkpoint / _CONTEXT / "hf"


def checkpoint_config(checkpoint: Path) -> NevaConfig:
    """The config of the model in a checkpoint.

    Raises:
        ConfigError: there is no checkpoint.
    """
    if not weights_folder(checkpoint).is_dir():
        raise ConfigError(
            f"{checkpoint}: is no checkpoint, which has the folders weights and context; "
            "make one of a Hugging Face model with `neva-prep import`"
        )
    return read_config_file(config_path(checkpoint))


def save_weights(stages: Sequence[Any], folder: Path) -> None:
    """Write the weights of this rank's stages; all ranks call it.

    Args:
        stages: MCoreNevaModel; several where the pipeline is virtual.
        folder: made here.
    """
    prepare_megatron()
    from megatron.core import dist_checkpointing

    folder.mkdir(parents=True, exist_ok=True)
    with _results_in_this_process():
        dist_checkpointing.save(_sharded(stages), str(folder), ("torch_dist", 1))


def load_weights(stages: Sequence[Any], folder: Path) -> None:
    """Fill this rank's stages, whatever the layout was that wrote the weights.

    Raises:
        ConfigError: the folder has no such weights.
    """
    prepare_megatron()
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.core import CheckpointingException

    try:
        with warnings.catch_warnings():
            # megatron-core's reader calls torch by its former names.
            warnings.filterwarnings("ignore", category=FutureWarning)
            loaded = dist_checkpointing.load(_sharded(stages), str(folder))
    except (CheckpointingException, OSError, KeyError) as error:
        raise ConfigError(f"{folder}: cannot be read into the model: {error}") from error
    for number, stage in enumerate(stages):
        stage.load_state_dict(loaded[f"model{number}"], strict=True)


@contextmanager
def _results_in_this_process() -> Iterator[None]:
    """Let a save that this process waits for start no helper.

    megatron-core collects what was written in a spawned process, which imports the user's script
    again: one without `if __name__ == "__main__":` would run twice, and fail.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    theirs = filesystem_async._results_queue
    filesystem_async._results_queue = queue.Queue()
    try:
        yield
    finally:
        filesystem_async._results_queue = theirs


def _sharded(stages: Sequence[Any]) -> dict[str, Any]:
    """Weights by stage; what decides is the key of each, which counts layers over all stages."""
    with torch.no_grad():
        return {f"model{number}": stage.sharded_state_dict() for number, stage in enumerate(stages)}
