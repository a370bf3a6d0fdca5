"""What the log says of a step, over all ranks."""

from __future__ import annotations

import resource

import torch

from ..loaders import MultiModalTaskEncoder
from .build import Training
from .flops import peak_flops, step_flops
from .logs import StepRow
from .step import StepResult
from .watch import Seen


def step_row(
    training: Training,
    encoder: MultiModalTaskEncoder,
    step: int,
    lr: float,
    result: StepResult,
    seen: Seen,
    samples: list[tuple[str, str]],
    seconds: float,
) -> StepRow:
    """What the log says of a step.

    Args:
        training: the model.
        encoder: of its data.
        step: number of the step, from 1.
        lr: its learning rate.
        result: what it did, over all ranks.
        seen: what this rank read for it.
        samples: key and dataset of all ranks' samples.
        seconds: that it took.
    """
    places = result.num_positions
    if encoder.packed_sequence:
        places = seen.rows * encoder.packed_sequence_size * _data_parallel_size()
    return StepRow(
        step=step,
        loss=result.loss,
        lr=lr,
        grad_norm=result.grad_norm or 0.0,
        tokens=result.num_tokens,
        trained_tokens=result.num_trained_tokens,
        positions=result.num_positions,
        fill=result.num_tokens / places if places else 0.0,
        seconds=seconds,
        data_wait=seen.wait_seconds / seconds,
        memory_bytes=_memory(),
        mfu=_mfu(training, seen, seconds),
        keys=[key for key, _ in samples],
        origins=[origin for _, origin in samples],
    )


def all_samples(seen: Seen | None) -> list[tuple[str, str]]:
    """Key and dataset of those of all data-parallel ranks, on the ranks that read."""
    from megatron.core import parallel_state

    own = list(zip(seen.keys, seen.origins, strict=True)) if seen else []
    if seen is None or _data_parallel_size() == 1:
        return own
    gathered: list[list[tuple[str, str]]] = [[] for _ in range(_data_parallel_size())]
    group = parallel_state.get_data_parallel_group()
    torch.distributed.all_gather_object(gathered, own, group=group)
    return [sample for samples in gathered for sample in samples]


def _data_parallel_size() -> int:
    from megatron.core import parallel_state

    size: int = parallel_state.get_data_parallel_world_size()
    return size


def _memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mfu(training: Training, seen: Seen, seconds: float) -> float | None:
    """Of the ranks that share rank 0's data."""
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if peak is None:
        return None
    needed = step_flops(training, positions=seen.positions, squares=seen.squares, tiles=seen.tiles)
    ranks = torch.distributed.get_world_size() / _data_parallel_size()
    return needed / (seconds * peak * ranks)
