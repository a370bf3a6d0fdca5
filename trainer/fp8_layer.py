"""megatron-core's parallel layers, multiplying in 8-bit floats, whatever the layout.

A layer keeps its class, its weights and its keys. What changes is the one function in which
megatron-core multiplies, and around which it sends between tensor ranks:

    weight     product
    frozen     fp8.py's: rows in e4m3, rounded once
    trained    Transformer Engine's where it is installed (engine_product.py), else in bfloat16
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from .compat import prepare_megatron
from .engine_product import has_transformer_engine
from .fused.product import Frozen, frozen_product

prepare_megatron()

from megatron.core.tensor_parallel.layers import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
)
from megatron.core.tensor_parallel.mappings import (  # noqa: E402
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)

_LAYERS = (ColumnParallelLinear, RowParallelLinear)

MULTIPLE = 16
"""What the sides of a weight must divide by on a rank; cuBLAS takes no others in 8 bits."""

Trained = Callable[[Tensor, Tensor], Tensor]
"""x [..., in] and a weight [out, in] to [..., out]."""


def multiply_in_eight_bits(
    decoder: Any, weights: Callable[[Any], Frozen | None], trained: Callable[[], Trained] | None
) -> None:
    """Let all layers of a decoder multiply so.

    Args:
        decoder: megatron-core's TransformerBlock.
        weights: the other form of a layer's frozen weight, None where it is trained.
        trained: makes the product of a layer whose weight is trained; None for bfloat16.

    Raises:
        ConfigError: a weight has a side that is no multiple of 16.
    """
    for name, layer in decoder.named_modules():
        if isinstance(layer, _LAYERS):
            _check_sides(name, layer.weight)
            layer._forward_impl = _Product(layer, weights, trained and trained())


def check_something_rounded(decoders: Iterable[Any]) -> None:
    """Refuse a run that would ask for 8 bits and multiply in none.

    Raises:
        ConfigError: all weights are trained, and Transformer Engine is not installed.
    """
    layers = [m for decoder in decoders for m in decoder.modules() if isinstance(m, _LAYERS)]
    if any(not layer.weight.requires_grad for layer in layers) or has_transformer_engine():
        return
    raise ConfigError(
        "precision=fp8: all weights of the decoder are trained, and without Transformer Engine "
        "only products with frozen ones are made in 8 bits; pip install "
        "'transformer-engine[pytorch]', train adapters (LoRA), or use bf16"
    )


class _Product:
    """Stands in the place of a layer's `_forward_impl`, with its arguments."""

    def __init__(
        self, layer: Any, weights: Callable[[Any], Frozen | None], trained: Trained | None
    ) -> None:
        self._layer, self._weights, self._trained = layer, weights, trained

    def __call__(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: Any = None,
        **others: Any,
    ) -> Tensor:
        frozen = self._weights(self._layer)
        if frozen is None and self._trained is None:
            product: Tensor = type(self._layer)._forward_impl(
                self._layer,
                input,
                weight,
                bias,
                allreduce_dgrad=allreduce_dgrad,
                sequence_parallel=sequence_parallel,
                tp_group=tp_group,
                **others,
            )
            return product
        x = input
        if sequence_parallel:
            x = gather_from_sequence_parallel_region(
                x, tensor_parallel_output_grad=True, group=tp_group
            )
        elif allreduce_dgrad:
            x = copy_to_tensor_model_parallel_region(x, group=tp_group)
        rows = x.reshape(-1, x.shape[-1])
        if frozen is not None:
            y = frozen_product(rows, frozen)
        else:
            assert self._trained is not None
            y = self._trained(rows, weight)
        y = y.view(*x.shape[:-1], -1)
        return y if bias is None else y + bias


def _check_sides(name: str, weight: Tensor) -> None:
    out, width = weight.shape
    if out % MULTIPLE or width % MULTIPLE:
        raise ConfigError(
            f"precision=fp8: the weight of {name} is {out} x {width} on a rank, and products in 8 "
            f"bits take multiples of {MULTIPLE}; use fewer tensor ranks "
            "(tensor_model_parallel_size), or bf16"
        )
