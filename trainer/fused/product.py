"""A matrix product with a frozen weight and an adapter, in as few passes over memory as it takes.

y  = x Wᵀ        hidden = scale · x Aᵀ      what reads them adds hidden · Bᵀ (adapted.py)
dx = dy W + scale · d_hidden · A            the second added in place; W itself gets no gradient
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .adapted import Product, add_low_rank


class Frozen(Protocol):
    """A weight [out, in] that is only multiplied with."""

    def forward(self, x: Tensor) -> Tensor:
        """X Wᵀ: [tokens, in] to [tokens, out]."""
        ...

    def backward(self, dy: Tensor) -> Tensor:
        """Dy W: [tokens, out] to [tokens, in]."""
        ...


class Plain:
    """The weight as it is stored."""

    def __init__(self, weight: Tensor) -> None:
        """Hold it; it may change in place between steps."""
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Give x Wᵀ."""
        return F.linear(x, self.weight)

    def backward(self, dy: Tensor) -> Tensor:
        """Give dy W."""
        return dy @ self.weight


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ: nothing is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Frozen) -> Tensor:
        ctx.weight = weight
        return weight.forward(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return ctx.weight.backward(dy), None


class _AdaptedProduct(torch.autograd.Function):
    """The same, and the hidden activations of an adapter, which is what is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Frozen, a: Tensor, scale: float) -> Any:
        ctx.weight, ctx.scale = weight, scale
        ctx.save_for_backward(x, a)
        hidden = F.linear(x, a)
        return weight.forward(x), hidden if scale == 1.0 else hidden.mul_(scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_hidden: Tensor) -> Any:
        x, a = ctx.saved_tensors
        narrow = d_hidden if ctx.scale == 1.0 else d_hidden * ctx.scale
        dx = None
        if ctx.needs_input_grad[0]:
            dx = add_low_rank(ctx.weight.backward(dy), narrow, a)
        return dx, None, narrow.t() @ x, None


def frozen_product(x: Tensor, weight: Frozen) -> Tensor:
    """[tokens, in] to [tokens, out]; only x gets a gradient."""
    y: Tensor = _FrozenProduct.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


def product(layer: Any, x: Tensor, weight: Frozen | None = None) -> Product:
    """What one of megatron-core's parallel layers gives on one rank, adapter included.

    Args:
        layer: ColumnParallelLinear or RowParallelLinear, perhaps with an adapter (lora_layer.py).
        x: [tokens, in]
        weight: of the layer where it is frozen, in another form than it is stored.
    """
    adapted = getattr(layer, "lora_a", None) is not None and layer.lora_unmerged is None
    y: Tensor
    if layer.weight.requires_grad:
        y, bias = layer(x)
        return Product(y if bias is None else y + bias)
    frozen = weight or Plain(layer.weight)
    hidden = None
    if not adapted:
        y = frozen_product(x, frozen)
    elif layer.lora_dropout and layer.training:
        y = frozen_product(x, frozen)
        hidden = layer.lora_scale * F.linear(layer.lora_input(x), layer.lora_a)
    else:
        y, hidden = _adapted(x, frozen, layer.lora_a, layer.lora_scale)
    return Product(
        y if layer.bias is None else y + layer.bias, hidden, layer.lora_b if adapted else None
    )


_adapted: Any = _AdaptedProduct.apply
