"""What stands between the matrix products of a decoder layer; one kernel each on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """X over its root mean square, times the weight; float32 inside."""
    return F.rms_norm(x, weight.shape, weight, eps)


def add_norm(branch: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum, and the same normalized."""
    total = branch + residual
    return total, F.rms_norm(total, weight.shape, weight, eps)


def add_layer_norm(
    x: Tensor, branch: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The sum, of the branch scaled per channel where there is a scale, and its layer norm."""
    total = x + (branch if scale is None else scale * branch)
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(gate) · up, of [tokens, 2 · width] whose first half is the gate."""
    gate, up = gate_and_up.chunk(2, -1)
    return F.silu(gate) * up


def split_and_turn(
    qkv: Tensor, cos: Tensor, sin: Tensor, groups: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, the first two turned by their places.

    Args:
        qkv: [tokens, groups · (queries + 2) · size]: each group's queries, its key, its value.
        cos: [tokens, 1, turned channels / 2], of the angles.
        sin: the same.
        groups: of queries that share a key.
        size: channels of a head.

    Returns:
        [tokens, heads, size], [tokens, groups, size], [tokens, groups, size]
    """
    tokens = len(qkv)
    by_group = qkv.view(tokens, groups, -1, size)
    query = by_group[:, :, :-2].reshape(tokens, -1, size)
    return _turn(query, cos, sin), _turn(by_group[:, :, -2], cos, sin), by_group[:, :, -1].clone()


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of channels (i, i + half): Hugging Face's order. Channels beyond stay."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return torch.cat([*turned, rest] if rest.shape[-1] else turned, -1)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one kernel; for a GPU, where compiling pays."""
    return torch.compile(function)
