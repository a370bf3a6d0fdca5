"""A layer that is computed again in the backward pass, for the memory of what it would keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch.utils.checkpoint import checkpoint

from ..compat import prepare_megatron

prepare_megatron()

from megatron.core.tensor_parallel.random import get_cuda_rng_tracker  # noqa: E402


def computed_again(function: Callable[..., Any], *inputs: Any) -> Any:
    """What the function gives; of all between, nothing is kept."""
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=_same_random_numbers)


def _same_random_numbers() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first time, and around the second: what adapters drop must be the same.

    torch brings back its own random state, and dropout draws from megatron-core's.
    """
    return nullcontext(), _states(get_cuda_rng_tracker().get_states())


@contextmanager
def _states(wanted: dict[str, Any]) -> Iterator[None]:
    tracker = get_cuda_rng_tracker()
    present = tracker.get_states()
    tracker.set_states(wanted)
    try:
        yield
    finally:
        tracker.set_states(present)
