"""Starting a run: one process, or as many as torchrun starts."""

from __future__ import annotations

import os

import torch

from ..errors import ConfigError
from .recipe import Recipe


def check_launch(recipe: Recipe) -> None:
    """Refuse another number of processes than the recipe asks for.

    Raises:
        ConfigError: the message has the command that starts as many.
    """
    wanted, found = recipe.trainer.world_size, world_size()
    if wanted == found:
        return
    nodes, devices = recipe.trainer.num_nodes, recipe.trainer.devices
    where = f"--nnodes {nodes} " if nodes > 1 else ""
    raise ConfigError(
        f"trainer: num_nodes={nodes} x devices={devices} are {wanted} processes and there are "
        f"{found}; start them with `torchrun {where}--nproc-per-node {devices} ...`, or set "
        "trainer.devices and trainer.num_nodes to what there is"
    )


def world_size() -> int:
    """Processes of this run: torchrun says how many."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", 1))
