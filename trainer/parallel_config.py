"""How a model is laid out over ranks, and in which numbers it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """Sizes of the groups of ranks, with NeMo's names; the rest of the ranks is data parallel."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: int | None = None
    context_parallel_size: int = 1
    sequence_parallel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """Precision and memory of a training step."""

    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: Literal["full", "selective"] | None = None
    """Compute activations again in the backward pass: those of all layers, or attention's."""
    initialize: bool = True
    """Draw random weights; False where they are read from a file right after."""
