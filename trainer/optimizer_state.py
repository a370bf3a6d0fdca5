"""Weights and the optimizer's state in parts that any layout over ranks can read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .build import Training
from .optimizer import parts_with_weights, set_groups, set_learning_rate
from .ranks import device


def sharded_weights(training: Training) -> dict[str, Any]:
    """By stage; what decides is the key of each weight, which counts layers over all stages."""
    return {
        f"model{number}": chunk.sharded_state_dict(metadata=_metadata())
        for number, chunk in enumerate(training.chunks)
    }


def sharded_optimizer(
    training: Training, weights: dict[str, Any], *, loading: bool
) -> dict[str, Any]:
    """Moments, and float32 weights beside bfloat16 ones.

    Args:
        training: whose they are.
        weights: what `sharded_weights` gave.
        loading: to be loaded, not to be saved.
    """
    with _steps_everywhere(training):
        state = training.optimizer.sharded_state_dict(
            dict(weights), is_loading=loading, metadata=_metadata()
        )
    return {"optimizer": state}


def load_optimizer(training: Training, folder: Path) -> None:
    """Load what `sharded_optimizer` gave, whatever the layout was then.

    The settings stay those of `training`: with the state come the ones that it was saved with.
    """
    from megatron.core import dist_checkpointing

    weights = sharded_weights(training)
    _make_moments(training.optimizer)
    with _step_apart():
        state = sharded_optimizer(training, weights, loading=True)
        loaded = dist_checkpointing.load(state, str(folder))
        training.optimizer.load_state_dict(loaded["optimizer"])
    for part in parts_with_weights(training.optimizer):
        for moments in part.optimizer.state.values():
            # All have got one tensor, which each of them would count up.
            moments["step"] = moments["step"].clone()
    set_groups(training.optimizer, training.settings)


def _make_moments(optimizer: Any) -> None:
    """Have the moments there that are loaded: torch's Adam makes them in its first step.

    megatron-core's distributed optimizer expects them, and its other ones make them themselves.
    """
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    set_learning_rate(optimizer, 0.0)
    for part in parts_with_weights(optimizer):
        if isinstance(part, DistributedOptimizer) and not part.optimizer.state:
            part._init_optimizer_states_with_dummy_values()


def _metadata() -> dict[str, Any]:
    from megatron.core import parallel_state

    return {
        # The only kind that another layout can read.
        "distrib_optim_sharding_type": "fully_reshardable",
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "singleton_local_shards": False,
        "chained_optim_avoid_prefix": True,
    }


@contextmanager
def _steps_everywhere(training: Training) -> Iterator[None]:
    """Have a count of steps where a rank holds no moments, as a stage of which nothing is trained.

    megatron-core's distributed optimizer reads the count from the moments, and saves that of rank
    0. All ranks call it.
    """
    if not training.settings.use_distributed_optimizer:
        yield
        return
    states = [part.optimizer.state for part in parts_with_weights(training.optimizer)]
    steps = [float(moments["step"]) for state in states for moments in state.values()]
    last = torch.tensor(max(steps, default=0.0), device=device())
    torch.distributed.all_reduce(last, torch.distributed.ReduceOp.MAX)
    empty = [state for state in states if not state]
    for state in empty:
        state["none"] = {"step": last.cpu()}
    try:
        yield
    finally:
        for state in empty:
            del state["none"]


@contextmanager
def _step_apart() -> Iterator[None]:
    """Keep torch Adam's `step` out of the way while moments are loaded.

    megatron-core's distributed optimizer takes every entry of a weight's state for one of its
    shards, and torch's Adam has its count of steps there.
    """
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    kept: Callable[..., Any] = DistributedOptimizer._set_main_param_and_optimizer_states

    def without_step(self: Any, weight: Any, tensors: Any) -> None:
        group, order = self.model_param_group_index_map[weight]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        step = state.pop("step", None)
        kept(self, weight, tensors)
        if step is not None:
            state["step"] = step

    DistributedOptimizer._set_main_param_and_optimizer_states = without_step
    try:
        yield
    finally:
        DistributedOptimizer._set_main_param_and_optimizer_states = kept
