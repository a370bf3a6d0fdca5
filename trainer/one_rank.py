"""A process that is the only rank: for importing, exporting and single-process training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import ConfigError
from .compat import prepare_megatron


@contextmanager
def one_rank(seed: int = 1) -> Iterator[None]:
    """megatron-core's groups of ranks, with this process in each; torn down behind.

    Raises:
        ConfigError: the process is one of several already.
    """
    prepare_megatron()
    from megatron.core import parallel_state, tensor_parallel

    distributed = torch.distributed
    if distributed.is_initialized():
        if distributed.get_world_size() > 1:
            raise ConfigError(
                f"this runs in one process, and there are {distributed.get_world_size()}; "
                "start it without torchrun"
            )
        if parallel_state.is_initialized():
            yield
            return
    own = not distributed.is_initialized()
    if own:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        store = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        tensor_parallel.model_parallel_cuda_manual_seed(seed)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        if own:
            distributed.destroy_process_group()
