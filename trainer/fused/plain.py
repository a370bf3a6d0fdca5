"""What kernels.py does, in torch's own words: on a CPU, in float32, and for tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import elementwise


def swiglu(y: Tensor, hidden: Tensor, b: Tensor) -> Tensor:
    """Give elementwise.swiglu of y + hidden · bᵀ."""
    return elementwise.swiglu(torch.addmm(y, hidden, b.t()))


def swiglu_backward(d_out: Tensor, y: Tensor, hidden: Tensor, b: Tensor) -> Tensor:
    """Give the gradient of y."""
    gate, up = torch.addmm(y, hidden, b.t()).chunk(2, -1)
    share = gate.sigmoid()
    d_gate = d_out * up * share * (1 + gate * (1 - share))
    return torch.cat([d_gate, d_out * F.silu(gate)], -1)


def turn(
    qkv: Tensor, hidden: Tensor, b: Tensor, cos: Tensor, sin: Tensor, groups: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Give elementwise.split_and_turn of qkv + hidden · bᵀ; all channels of a head are turned."""
    return elementwise.split_and_turn(torch.addmm(qkv, hidden, b.t()), cos, sin, groups, size)


def turned_back(
    d_query: Tensor, d_key: Tensor, d_value: Tensor, cos: Tensor, sin: Tensor, groups: int
) -> Tensor:
    """Give the gradient of qkv: [tokens, groups · (queries + 2) · size]."""
    turned = [_turn_back(d_query, cos, sin), _turn_back(d_key, cos, sin), d_value]
    size = d_query.shape[-1]
    by_group = [part.reshape(len(part), groups, -1, size) for part in turned]
    return torch.cat(by_group, 2).view(len(d_query), -1)


def add_low_rank(x: Tensor, narrow: Tensor, a: Tensor) -> Tensor:
    """Add narrow · a to x, in its place."""
    return x.addmm_(narrow, a)


def _turn_back(d: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = d.chunk(2, -1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], -1)
