"""AdamW whose moments are bfloat16: four bytes of state a weight for eight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_BETA = 0.99
"""A step moves a moment by a share of 1 - beta of what is new; where that is below what bfloat16
can tell apart, 1/256, moments stand still: at 0.95 within 8 % of where they should go, at 0.99
within 39 %."""


class NarrowAdamW(torch.optim.AdamW):
    """torch's AdamW, but for the numbers in which it keeps its moments; it computes in float32."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _update(weight, self.state[weight], group)


def narrow(optimizer: Any) -> None:
    """Have an AdamW of torch's, which has made no step yet, keep narrow moments.

    A new one would not do: megatron-core's distributed optimizer gives its own weights that torch
    would refuse, since they are pieces of others.
    """
    optimizer.__class__ = NarrowAdamW


def _update(weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["step"] = torch.tensor(0.0)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(weight, dtype=torch.bfloat16)
    state["step"] += 1
    count = float(state["step"])
    first_beta, second_beta = group["betas"]
    gradient = weight.grad.float()  # type: ignore[union-attr]
    mean = state["exp_avg"].float().lerp_(gradient, 1 - first_beta)
    square = state["exp_avg_sq"].float().mul_(second_beta)
    square.addcmul_(gradient, gradient, value=1 - second_beta)
    # A state that was loaded has the weight's precision.
    state["exp_avg"], state["exp_avg_sq"] = mean.bfloat16(), square.bfloat16()
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    root = square.div_(1 - second_beta**count).sqrt_().add_(group["eps"])
    weight.addcdiv_(mean, root, value=-group["lr"] / (1 - first_beta**count))
