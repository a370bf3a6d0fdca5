"""How a model is laid out over ranks, and in which numbers it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


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

    precision: Literal["fp32", "bf16", "fp8"] = "fp32"
    """`fp8` is bf16 but for the products with frozen weights of the decoder (fp8.py)."""
    recompute: Literal["full", "selective"] | None = None
    """Compute activations again in the backward pass: those of all layers, or attention's."""
    initialize: bool = True
    """Draw random weights; False where they are read from a file right after."""
    fused: bool | None = None
    """Run the decoder by fused/decoder.py, which needs each of its tensors whole on a rank and a
    Llama-like layer; None for wherever that is so on a GPU."""
    offload_vision: bool = False
    """Keep the weights of a frozen vision encoder in the computer's memory, and copy them to the
    GPU for each pass."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16
