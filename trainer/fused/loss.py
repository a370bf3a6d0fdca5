"""The loss of the positions that have a label, without ever holding all their logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..parts import mark

CHUNK = 2048
"""Positions whose logits are held at once: 262 MB in float32 at 32,064 words."""


class _TokenLosses(torch.autograd.Function):
    """Chunk by chunk; the backward pass computes the logits again, which costs a hundredth."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, labels)
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        for part in _parts(len(hidden)):
            logits = (hidden[part] @ weight.t()).float()
            chosen = logits.gather(1, labels[part, None])[:, 0]
            losses[part] = logits.logsumexp(-1) - chosen
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        hidden, weight, labels = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = torch.zeros_like(weight, dtype=torch.float32)
        for part in _parts(len(hidden)):
            chances = (hidden[part] @ weight.t()).float().softmax(-1)
            chances.scatter_add_(
                1, labels[part, None], chances.new_full((), -1.0).expand(_count(part), 1)
            )
            d_logits = chances.mul_(gradient[part, None]).to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[part] = d_logits @ weight
            if d_weight is not None:
                d_weight += d_logits.t() @ hidden[part]
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None


def _parts(count: int) -> list[slice]:
    return [slice(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]


def _count(part: slice) -> int:
    return int(part.stop - part.start)


def token_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each position.

    Args:
        hidden: [positions, width], normalized.
        weight: [words, width], of the output layer.
        labels: int64[positions]

    Returns:
        float32[positions]
    """
    with mark("loss"):
        losses: Tensor = _apply(hidden, weight, labels)
    return losses


_apply: Any = _TokenLosses.apply
