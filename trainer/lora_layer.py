"""A parallel layer with an adapter: the layer itself, of another class."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .compat import prepare_megatron
from .hf_load import own_piece

prepare_megatron()

from megatron.core.dist_checkpointing.mapping import ShardedTensor  # noqa: E402
from megatron.core.tensor_parallel.layers import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from megatron.core.tensor_parallel.mappings import (  # noqa: E402
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker  # noqa: E402
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory  # noqa: E402
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint  # noqa: E402


class _Adapted:
    """What both kinds of layers have."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float
    lora_dropout: float
    lora_parts: int
    """Equal parts of the output, each cut by itself: the gate and what it gates."""
    lora_unmerged: Tensor | None
    """The layer's own weight while the adapter is merged into it."""

    def lora_input(self, x: Tensor) -> Tensor:
        """What the adapter reads, after dropout; of its own on ranks that see other numbers."""
        if not self.lora_dropout or not self.training:  # type: ignore[attr-defined]
            return x
        # Never torch's own state, which loaders draw from on the ranks that read.
        differs = isinstance(self, RowParallelLinear) or self.sequence_parallel  # type: ignore[attr-defined]
        name = "model-parallel-rng" if differs else "data-parallel-rng"
        with get_cuda_rng_tracker().fork(name):
            return F.dropout(x, self.lora_dropout)


class LoRAColumnLinear(_Adapted, ColumnParallelLinear):  # type: ignore[misc]
    """Cuts its output over tensor ranks."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """As the layer alone, plus the adapter."""
        output, bias = super().forward(input_, *args, **kwargs)
        if self.lora_unmerged is not None:
            return output, bias
        hidden = F.linear(self.lora_input(input_), self.lora_a)
        if self.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=True, group=self.tp_group
            )
        else:
            hidden = copy_to_tensor_model_parallel_region(hidden, group=self.tp_group)
        return output + self.lora_scale * F.linear(hidden, self.lora_b), bias

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> Any:
        """Keys of the layer as they were, and those of the adapter."""
        return _sharded(
            self, {"weight": 0, "bias": 0, "lora_b": 0}, prefix, sharded_offsets, metadata
        )


class LoRARowLinear(_Adapted, RowParallelLinear):  # type: ignore[misc]
    """Cuts its input over tensor ranks."""

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """As the layer alone, plus the adapter."""
        output, bias = super().forward(input_)
        if self.lora_unmerged is not None:
            return output, bias
        hidden = F.linear(self.lora_input(input_), self.lora_a)
        if self.sequence_parallel:
            hidden = reduce_scatter_to_sequence_parallel_region(hidden, group=self.tp_group)
        else:
            hidden = reduce_from_tensor_model_parallel_region(hidden, group=self.tp_group)
        return output + self.lora_scale * F.linear(hidden, self.lora_b), bias

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> Any:
        """Keys of the layer as they were, and those of the adapter."""
        return _sharded(self, {"weight": 1, "lora_a": 1}, prefix, sharded_offsets, metadata)


def attach(
    layer: Any, name: str, *, dim: int, scale: float, dropout: float = 0.0, seed: int = 0
) -> None:
    """Give a layer an adapter that changes nothing yet.

    A starts as the same numbers in every layout: they are drawn by the seed and the layer's name.

    Args:
        layer: ColumnParallelLinear or RowParallelLinear.
        name: of the layer, over all pipeline stages.
        dim: of the adapter.
        scale: how often it counts.
        dropout: of what it reads.
        seed: the same on all ranks.
    """
    column = isinstance(layer, ColumnParallelLinear)
    out, width = layer.weight.shape
    layer.lora_a = _weight(layer, (dim, width), cut=None if column else 1)
    layer.lora_b = _weight(layer, (out, dim), cut=0 if column else None)
    # Ranks see different tokens there, so megatron-core must add their gradients up.
    replicated = layer.lora_a if column else layer.lora_b
    replicated.sequence_parallel = layer.sequence_parallel
    gated = getattr(layer.config, "gated_linear_unit", False) and name.endswith("linear_fc1")
    layer.lora_parts = 2 if gated else 1
    layer.lora_scale, layer.lora_dropout, layer.lora_unmerged = scale, dropout, None
    layer.__class__ = LoRAColumnLinear if column else LoRARowLinear
    start = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    whole = torch.empty(dim, layer.input_size)
    nn.init.kaiming_uniform_(whole, a=math.sqrt(5), generator=start)
    with torch.no_grad():
        layer.lora_a.copy_(own_piece(whole, layer.lora_a, 1))
        layer.lora_b.zero_()


def _weight(layer: Any, shape: tuple[int, int], cut: int | None) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(shape, dtype=layer.weight.dtype, device=layer.weight.device))
    set_tensor_model_parallel_attributes(weight, cut is not None, -1 if cut is None else cut, 1)
    return weight


def _sharded(
    layer: Any, cut: dict[str, int], prefix: str, offsets: Any, metadata: Any
) -> dict[str, ShardedTensor]:
    made: dict[str, Any] = make_sharded_tensors_for_checkpoint(
        layer.state_dict(prefix="", keep_vars=True),
        prefix,
        cut,
        offsets,
        tp_group=layer.tp_group,
        dp_cp_group=metadata["dp_cp_group"],
    )
    if layer.lora_parts == 2:
        # The MLP does as much for the layer's own weight.
        key = f"{prefix}lora_b"
        made[key] = apply_swiglu_sharded_factory(made[key], offsets)
    return made
