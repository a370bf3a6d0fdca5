"""What advice on a run depends on, read from its settings."""

from __future__ import annotations

from typing import Any

import torch

from .advice import Setup
from .build import Training
from .ranks import device


def setup_of(data: Any, training: Training) -> Setup:
    """Of a run, on this rank.

    Args:
        data: its data module.
        training: what is trained.
    """
    from megatron.core import parallel_state

    parallel, settings = training.parallel, training.settings
    return Setup(
        workers=data.settings.read.num_workers,
        packed=data.settings.encoder.packed_sequence,
        num_micro_batches=data.num_micro_batches,
        data_parallel=parallel_state.get_data_parallel_world_size(),
        tensor_parallel=parallel.tensor_model_parallel_size,
        pipeline_parallel=parallel.pipeline_model_parallel_size,
        context_parallel=parallel.context_parallel_size,
        overlap_grad_reduce=settings.overlap_grad_reduce,
        distributed_optimizer=settings.use_distributed_optimizer,
        recompute=training.compute.recompute,
        vision_setting=_vision_setting(training),
        not_fused=_why_not_fused(training),
        fp8_possible=_can_use_fp8(training),
    )


def _vision_setting(training: Training) -> str | None:
    if training.peft is not None:
        return None if training.peft.freeze_vision_model else "peft.freeze_vision_model"
    return None if training.neva.freeze_vision_model else "model.config.freeze_vision_model"


def _why_not_fused(training: Training) -> str | None:
    """None where it is, and on a CPU, which would not gain by it."""
    chunk, compute, parallel = training.chunks[0], training.compute, training.parallel
    if not torch.cuda.is_available() or chunk.is_fused(device()):
        return None
    if compute.fused is False:
        return "trainer.compute.fused=false turns it off"
    for name in (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "context_parallel_size",
    ):
        if (size := getattr(parallel, name)) > 1:
            return f"it needs trainer.strategy.{name}=1 (now {size}), where memory allows"
    if not chunk.can_fuse:
        return "it knows layers with RMSNorm and a SwiGLU alone, and this model has others"
    return "it needs trainer.compute.precision=bf16 (now fp32)"


def _can_use_fp8(training: Training) -> bool:
    frozen = (training.peft or training.neva).freeze_language_model
    if not torch.cuda.is_available() or not frozen or training.compute.precision != "bf16":
        return False
    return torch.cuda.get_device_capability() >= (8, 9)
