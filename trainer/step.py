"""A step: micro-batches through the pipeline, one loss over all their tokens, one update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TrainingError
from ..loaders.batch import Batch
from ..loaders.pixel_values import normalize
from .build import Training, whole_weights
from .check import check_step, row_multiple
from .expand import ExpandedBatch, expand_batch
from .optimizer import clip_gradients
from .overlap import finish_gather, start_gather
from .parts import mark
from .ranks import device
from .share import MicroBatch, share_batches

_MAX_KEYS = 20


class NotFiniteError(TrainingError):
    """A loss or a gradient is not finite; raised on all ranks alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step did, over all ranks; the same on each of them."""

    loss: float
    """Mean over all trained tokens of the global batch; nan if there are none."""
    loss_sum: float
    num_trained_tokens: int
    num_tokens: int
    """Positions of samples, image embeddings included, padding left out."""
    num_positions: int
    """Positions that were computed, padding included."""
    grad_norm: float | None = None
    """Before clipping; None where nothing was trained."""
    skipped: bool = False
    """No token of the global batch is trained, so the weights were left alone."""


def train_step(
    training: Training,
    batches: Iterator[Batch] | None,
    *,
    num_micro_batches: int,
    seq_length: int,
    micro_batch_size: int,
) -> StepResult:
    """Train on the next micro-batches.

    The loss is the sum of all tokens' losses over the number of trained tokens, both over all
    data-parallel and context-parallel ranks and all micro-batches; so are the gradients.

    Args:
        training: what is trained.
        batches: the loader's; read only where `reads_data()`, None elsewhere.
        num_micro_batches: of this data-parallel rank.
        seq_length: positions of a row. In a pipeline rows are filled up to it; packed rows must
            have it (the loaders' `pad_packs`).
        micro_batch_size: rows of a batch; 1 where they are packed.

    Raises:
        NotFiniteError: a loss or a gradient is, and the weights are as before.
        TrainingError: there are too few batches.
        ConfigError: numbers that the layout cannot run.
        NevaPrepError: the loader's.
    """
    check_step(
        training.parallel,
        num_micro_batches=num_micro_batches,
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
    )
    with mark("batches"):
        shared = _next(training, batches, num_micro_batches, seq_length, micro_batch_size)
    if len(shared) < num_micro_batches:
        raise TrainingError(
            f"the data ended: a step needs {num_micro_batches} batches of this rank and "
            f"{len(shared)} were left"
        )
    with mark("optimizer"):
        for model in training.models:
            model.train()
            model.zero_grad_buffer()
        training.optimizer.zero_grad()
    if training.settings.overlap_param_gather:
        start_gather(training.models)
    with mark("backward"):
        losses = _run(training, shared, seq_length, micro_batch_size, train=True)
    if training.settings.overlap_param_gather:
        finish_gather(training.models)
    # The norm is queued behind the backward pass before the loss is waited for.
    with mark("optimizer"):
        training.optimizer.prepare_grads()
        norm = float(training.optimizer.get_grad_norm())
    result = _result(shared, losses)
    if not result.num_trained_tokens:
        return replace(result, grad_norm=0.0, skipped=True)
    if not math.isfinite(norm):
        keys = _gather_keys([key for micro in shared for key in micro.keys])
        raise NotFiniteError(
            f"the gradients are not finite (norm {norm}), though the loss is {result.loss:.4g}; "
            f"the samples were {_list(keys)}. Lower the learning rate, or look at them with "
            "`neva-prep inspect`"
        )
    with mark("optimizer"):
        clip_gradients(training.optimizer, training.settings.clip_grad, norm)
        training.optimizer.step_with_ready_grads()
    return replace(result, grad_norm=norm)


def evaluate_step(
    training: Training,
    batches: Iterator[Batch] | None,
    *,
    num_micro_batches: int,
    seq_length: int,
    micro_batch_size: int,
) -> StepResult | None:
    """The loss of the next micro-batches, without training.

    Args:
        training: what is evaluated.
        batches: as of `train_step`; may end.
        num_micro_batches: most of them.
        seq_length: as of `train_step`.
        micro_batch_size: as of `train_step`; a batch may have fewer rows.

    Returns:
        None where no batch was left. All data-parallel ranks must have equally many.

    Raises:
        NotFiniteError: a loss is not finite.
    """
    shared = _next(training, batches, num_micro_batches, seq_length, micro_batch_size)
    if not shared:
        return None
    real = len(shared)
    if training.parallel.virtual_pipeline_model_parallel_size:
        shared += [shared[-1]] * (-real % training.parallel.pipeline_model_parallel_size)
    for model in training.models:
        model.eval()
    with whole_weights(training), torch.no_grad():
        losses = _run(training, shared, seq_length, micro_batch_size, train=False)
    return _result(shared[:real], losses[:real])


def _next(
    training: Training,
    batches: Iterator[Batch] | None,
    count: int,
    seq_length: int,
    micro_batch_size: int,
) -> list[MicroBatch]:
    pipeline = training.parallel.pipeline_model_parallel_size > 1

    def expand(batch: Batch) -> ExpandedBatch:
        expanded = expand_batch(
            batch,
            num_image_embeddings_per_tile=training.neva.num_image_embeddings_per_tile,
            multiple_of=row_multiple(training.parallel),
            length=seq_length if pipeline else None,
        )
        return _fill_rows(expanded, micro_batch_size) if pipeline else expanded

    return share_batches(batches, count, expand)


def _fill_rows(batch: ExpandedBatch, count: int) -> ExpandedBatch:
    """Rows of padding below, since all stages of a pipeline expect equally many."""
    missing = count - len(batch.input_ids)
    if missing <= 0 or batch.packed_seq_params is not None:
        return batch
    fills = {"input_ids": 0, "image_index": -1, "labels": -100, "loss_mask": 0, "position_ids": 0}
    rows: dict[str, Any] = {
        name: F.pad(getattr(batch, name), (0, 0, 0, missing), value=fill)
        for name, fill in fills.items()
    }
    return replace(batch, **rows)


def _run(
    training: Training,
    shared: Sequence[MicroBatch],
    seq_length: int,
    micro_batch_size: int,
    *,
    train: bool,
) -> list[Tensor]:
    """The loss and the tokens of each micro-batch, float32[2]; none before the last stage."""
    from megatron.core.pipeline_parallel import get_forward_backward_func

    iterators = [iter(shared) for _ in training.models]
    models = list(training.models)
    losses: list[Tensor] = get_forward_backward_func()(
        forward_step_func=partial(_forward, training),
        data_iterator=iterators if len(models) > 1 else iterators[0],
        model=models if len(models) > 1 else models[0],
        num_microbatches=len(shared),
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        forward_only=not train,
    )
    return losses or []


def _forward(training: Training, batches: Iterator[MicroBatch], model: Any) -> tuple[Tensor, Any]:
    micro = next(batches)
    batch = micro.batch
    inputs = batch.model_inputs() | {"labelled": micro.labelled}
    with mark("vision"):
        inputs["media"] = _normalized(training, batch.media)
    with mark("decoder"):
        return model(**inputs), partial(_loss, batch)


def _normalized(training: Training, media: Tensor) -> Tensor:
    if media.dtype != torch.uint8 or not len(media):
        return media
    return normalize(
        media,
        mean=training.image_mean,
        std=training.image_std,
        dtype=training.compute.dtype,
    )


def _loss(batch: ExpandedBatch, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What megatron-core takes: the sum, how many tokens it is of, and what is reported."""
    with mark("loss"):
        # No product with the mask: infinity at a position without label would make it nan.
        masked = losses.float().where(batch.loss_mask > 0, 0.0)
        total, count = masked.sum(), batch.loss_mask.sum()
        return total, count.to(torch.int), torch.stack([total.detach(), count])


def _result(shared: Sequence[MicroBatch], losses: Sequence[Tensor]) -> StepResult:
    """Sums over all ranks.

    Raises:
        NotFiniteError: a loss is not finite.
    """
    from megatron.core import parallel_state

    sums = torch.zeros(5, dtype=torch.float64, device=device())
    bad: list[str] = []
    if losses:
        table = torch.stack(list(losses)).double()
        sums[:2] = table.sum(0)
        sums[4] = (~table[:, 0].isfinite()).sum()
    if parallel_state.get_context_parallel_rank() == 0:
        sums[2] = sum(micro.num_tokens for micro in shared)
        sums[3] = sum(micro.num_positions for micro in shared)
    torch.distributed.all_reduce(
        sums, group=parallel_state.get_data_parallel_group(with_context_parallel=True)
    )
    pipeline = parallel_state.get_pipeline_model_parallel_group()
    if pipeline.size() > 1:
        last = torch.distributed.get_global_rank(pipeline, pipeline.size() - 1)
        torch.distributed.broadcast(sums, src=last, group=pipeline)
    total, trained, tokens, positions, not_finite = sums.tolist()
    if not_finite:
        for micro, loss in zip(shared, losses, strict=False):
            bad += [] if bool(loss[0].isfinite()) else micro.keys
        raise NotFiniteError(
            f"the loss is not finite on samples {_list(_gather_keys(bad))}. Look at them with "
            "`neva-prep inspect`, or lower the learning rate"
        )
    return StepResult(
        loss=total / trained if trained else math.nan,
        loss_sum=total,
        num_trained_tokens=int(trained),
        num_tokens=int(tokens),
        num_positions=int(positions),
    )


def _gather_keys(keys: Sequence[str]) -> list[str]:
    """Keys that any rank names, each once."""
    gathered: list[Sequence[str]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, list(keys))
    return sorted({key for part in gathered for key in part})


def _list(keys: Sequence[str]) -> str:
    rest = len(keys) - _MAX_KEYS
    return ", ".join(keys[:_MAX_KEYS]) + (f" and {rest} more" if rest > 0 else "")
