"""What reads a product with an adapter, adding the adapter's part as it reads.

Written out by a matrix product, that part costs two more passes over the product, a twentieth of a
step. Each function here reads y + hidden · bᵀ. Its gradients for y, hidden and b:

dy = the function's own        d_hidden = dy · b        db = dyᵀ · hidden
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import plain
from .elementwise import split_and_turn, swiglu

Caller = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What runs a function of elementwise.py: as it is, or compiled."""


@dataclass(frozen=True, slots=True)
class Product:
    """y + hidden · bᵀ, or y alone."""

    y: Tensor
    """[tokens, out]"""
    hidden: Tensor | None = None
    """[tokens, rank]"""
    b: Tensor | None = None
    """[out, rank]"""

    def whole(self) -> Tensor:
        """[tokens, out], the second part added to the first in its place."""
        whole: Tensor = self.y
        return whole if self.hidden is None else _whole(whole, self.hidden, self.b)


def read_swiglu(product: Product, call: Caller) -> Tensor:
    """The product's swiglu: [tokens, out / 2]."""
    if product.hidden is None:
        return call(swiglu)(product.y)  # type: ignore[no-any-return]
    made: Tensor = _swiglu(product.y, product.hidden, product.b)
    return made


def read_turn(
    product: Product, cos: Tensor, sin: Tensor, groups: int, size: int, call: Caller
) -> tuple[Tensor, Tensor, Tensor]:
    """The product's queries, keys and values; see split_and_turn."""
    fits = cos.shape[-1] * 2 == size and size >= 32 and not size & (size - 1)
    if product.hidden is None or not fits:
        made = call(split_and_turn)(product.whole(), cos, sin, groups, size)
    else:
        made = _turn(product.y, product.hidden, product.b, cos, sin, groups, size)
    query, key, value = made
    return query, key, value


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, hidden: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, b)
        ctx.mark_dirty(y)
        return add_low_rank(y, hidden, b.t())

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        hidden, b = ctx.saved_tensors
        return dy, dy @ b, dy.t() @ hidden


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, hidden: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(y, hidden, b)
        made: Tensor = _kernels(y).swiglu(y, hidden, b)
        return made

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        y, hidden, b = ctx.saved_tensors
        dy = _kernels(y).swiglu_backward(d_out, y, hidden, b)
        return dy, dy @ b, dy.t() @ hidden


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, hidden: Tensor, b: Tensor, cos: Tensor, sin: Tensor,
                groups: int, size: int) -> Any:  # fmt: skip
        ctx.save_for_backward(hidden, b, cos, sin)
        ctx.groups = groups
        return _kernels(y).turn(y, hidden, b, cos, sin, groups, size)

    @staticmethod
    def backward(ctx: Any, d_query: Tensor, d_key: Tensor, d_value: Tensor) -> Any:
        hidden, b, cos, sin = ctx.saved_tensors
        dy = _kernels(d_query).turned_back(d_query, d_key, d_value, cos, sin, ctx.groups)
        return dy, dy @ b, dy.t() @ hidden, None, None, None, None


_whole: Any = _Whole.apply
_swiglu: Any = _SwiGLU.apply
_turn: Any = _Turn.apply


def _kernels(like: Tensor) -> Any:
    """What computes on a tensor: kernels.py, or the same in torch's own words."""
    if like.is_cuda and like.dtype in (torch.bfloat16, torch.float16):
        from . import kernels

        return kernels
    return plain


def add_low_rank(x: Tensor, narrow: Tensor, a: Tensor) -> Tensor:
    """Add narrow · a to x, in its place.

    Args:
        x: [tokens, width]
        narrow: [tokens, rank]
        a: [rank, width]
    """
    added: Tensor = _kernels(x).add_low_rank(x, narrow, a)
    return added
