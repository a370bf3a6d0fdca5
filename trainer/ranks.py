"""The ranks of a training run: processes that torchrun started, in megatron-core's groups."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import ConfigError
from .compat import prepare_megatron
from .parallel_config import ParallelConfig

_SEED_PER_STAGE = 100
"""Stages draw different weights; Megatron-LM takes the same step between their seeds."""


def start_ranks(parallel: ParallelConfig, *, seed: int) -> None:
    """Join the ranks that torchrun's environment names, or be the only one; lay them out.

    The loaders find their data-parallel rank from then on. NCCL where there is CUDA, else gloo. A
    process group that exists already is used as it is.

    Args:
        parallel: sizes of the groups.
        seed: of weights and dropout; the same on all ranks.

    Raises:
        ConfigError: the number of ranks does not divide into such groups.
    """
    from .check import check_ranks

    prepare_megatron()
    from megatron.core import parallel_state, tensor_parallel

    distributed = torch.distributed
    check_ranks(parallel, _world_size())
    if parallel.tensor_model_parallel_size > 1:
        # What is sent must be queued before what is computed beside it; CUDA reads it at its start.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if not distributed.is_initialized():
        _join()
    parallel_state.initialize_model_parallel(
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
    )
    if not torch.cuda.is_available():
        # Random states kept for CUDA are the CPU's there (compat.py), and each use is warned of.
        logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)
    seed += _SEED_PER_STAGE * parallel_state.get_pipeline_model_parallel_rank()
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


@contextmanager
def ranks_joined(parallel: ParallelConfig, *, seed: int) -> Iterator[None]:
    """`start_ranks`, and `stop_ranks` at the end.

    A rank that fails among several leaves without a word, and its process must end: closing a group
    of NCCL's waits for the others, and they wait in another place for the one that fails. Whoever
    started the processes (torchrun) sees it end, and ends the others.

    Raises:
        ConfigError: as `start_ranks`.
    """
    start_ranks(parallel, seed=seed)
    try:
        yield
    except BaseException:
        if _world_size() == 1:
            stop_ranks()
        raise
    stop_ranks()


def stop_ranks() -> None:
    """Leave the groups; `start_ranks` may be called again."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def device() -> torch.device:
    """Where this rank computes."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _world_size() -> int:
    if torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", 1))


def _join() -> None:
    cuda = torch.cuda.is_available()
    if cuda:
        # Packs of all sizes would leave holes in memory; CUDA's allocator reads it at its start.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        if "OMP_NUM_THREADS" not in os.environ:
            # As torchrun has it: its loaders' processes work on these cores.
            torch.set_num_threads(1)
        local = int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK={local}: this machine has {torch.cuda.device_count()} GPUs; start as "
                "many processes on it (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(local)
    backend = "nccl" if cuda else "gloo"
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group(backend)
        return
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
