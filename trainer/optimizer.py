"""Adam over megatron-core's gradient buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..errors import ConfigError
from .compat import prepare_megatron
from .narrow_adam import MAX_BETA, narrow
from .overlap import keep_order
from .parallel_config import ComputeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """AdamW. Where weights are bfloat16, the optimizer keeps them in float32, too."""

    lr: float = 1e-4
    """Until the schedule sets another."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.1
    """Of matrices; norms and biases are not decayed."""
    clip_grad: float = 1.0
    """Largest norm of all gradients together; 0 for no limit."""
    state_precision: Literal["fp32", "bf16"] = "fp32"
    """Of Adam's two moments; `bf16` takes half their memory, and betas of at most 0.99."""
    use_distributed_optimizer: bool = False
    """Each data-parallel rank holds a part of the optimizer's state."""
    overlap_grad_reduce: bool = False
    """Sum gradients over data-parallel ranks while the backward pass goes on."""
    overlap_param_gather: bool = False
    """Fetch weights from data-parallel ranks while the forward pass goes on."""
    bucket_size: int | None = None
    """Gradients that are summed at once where that is overlapped; None for megatron-core's."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot train."""
        if self.lr < 0 or self.weight_decay < 0 or self.clip_grad < 0 or self.eps <= 0:
            raise ConfigError(
                f"lr={self.lr}, weight_decay={self.weight_decay}, clip_grad={self.clip_grad}, "
                f"eps={self.eps}: must not be negative, and eps above 0"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas={self.betas}: must be from 0 to below 1")
        if self.state_precision == "bf16" and max(self.betas) > MAX_BETA:
            raise ConfigError(
                f"betas={self.betas} with state_precision=bf16: bfloat16 cannot hold what a step "
                f"adds to such slow moments; use betas of at most {MAX_BETA}, or fp32"
            )


def wrap_chunks(chunks: Sequence[Any], settings: OptimizerSettings) -> list[Any]:
    """megatron-core's data-parallel wrappers, which hold the gradients."""
    prepare_megatron()
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
    )

    config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=settings.use_distributed_optimizer,
        overlap_grad_reduce=settings.overlap_grad_reduce,
        overlap_param_gather=settings.overlap_param_gather,
        # A layer does not ask for the next one's weights: overlap.py asks for all.
        align_param_gather=settings.overlap_param_gather,
        bucket_size=settings.bucket_size,
    )
    models = [
        DistributedDataParallel(chunk.config, config, chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(chunks)
    ]
    if settings.overlap_grad_reduce:
        keep_order(models)
    return models


def build_optimizer(
    models: Sequence[Any], settings: OptimizerSettings, compute: ComputeConfig
) -> Any:
    """megatron-core's optimizer of the weights that are trained."""
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    bf16 = compute.dtype is torch.bfloat16
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.betas[0],
            adam_beta2=settings.betas[1],
            adam_eps=settings.eps,
            clip_grad=settings.clip_grad,
            bf16=bf16,
            params_dtype=compute.dtype,
            use_distributed_optimizer=settings.use_distributed_optimizer,
            overlap_param_gather=settings.overlap_param_gather,
        ),
        list(models),
    )
    if settings.state_precision == "bf16":
        for part in parts_with_weights(optimizer):
            narrow(part.optimizer)
    set_groups(optimizer, settings)
    return optimizer


def set_groups(optimizer: Any, settings: OptimizerSettings) -> None:
    """Have the settings in all groups of weights."""
    for group in optimizer.param_groups:
        group["betas"], group["eps"] = settings.betas, settings.eps
        # megatron-core leaves it to its schedule to spare norms and biases; until then all decay.
        group["weight_decay"] = settings.weight_decay * group["wd_mult"]


def parts_with_weights(optimizer: Any) -> list[Any]:
    """megatron-core's optimizers that have weights on this rank."""
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in parts if not getattr(part, "is_stub_optimizer", False)]


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Let the next step take it."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(optimizer: Any, max_norm: float, norm: float) -> None:
    """Scale all gradients down where their norm exceeds the limit."""
    from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

    for part in parts_with_weights(optimizer):
        weights = part.get_parameters()
        if weights and max_norm > 0:
            clip_grad_by_total_norm_fp32(weights, max_norm=max_norm, total_norm=norm)
