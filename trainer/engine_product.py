"""Products with trained weights in 8-bit floats, by Transformer Engine.

Weights, what flows by and gradients are rounded as they come, each tensor by one scale of its own
(e4m3 forward, e5m2 backward): no history of scales, so that a step depends on nothing but its
weights and its data, is recomputed exactly, and checkpoints hold nothing more.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from typing import Any

import torch.nn.functional as F
from packaging.version import Version
from torch import Tensor

from ..errors import ConfigError

OLDEST = "2.9"
"""Release of Transformer Engine, the first with `autocast`."""

_ROWS = 16
"""What the number of rows must divide by: the gradient of a weight sums over them."""


def has_transformer_engine() -> bool:
    """Whether it is installed, for torch.

    Raises:
        ConfigError: it is, and too old.
    """
    if importlib.util.find_spec("transformer_engine_torch") is None:
        return False
    found = version("transformer-engine-torch")
    if Version(found) < Version(OLDEST):
        raise ConfigError(
            f"precision=fp8: Transformer Engine {found} is installed, and {OLDEST} or later is "
            "needed; pip install -U 'transformer-engine[pytorch]', uninstall it, or use bf16"
        )
    return True


class EngineProduct:
    """x Wᵀ, of one layer."""

    def __init__(self) -> None:
        """Nothing is made before the weight is on its device."""
        self._linear: Any = None

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """[rows, in] and [out, in] to [rows, out]."""
        missing = -len(x) % _ROWS
        y = self._on_engine(F.pad(x, (0, 0, 0, missing)) if missing else x, weight)
        return y[: len(x)]

    def _on_engine(self, x: Tensor, weight: Tensor) -> Tensor:
        import transformer_engine.pytorch as te
        from transformer_engine.common.recipe import Float8CurrentScaling

        if self._linear is None:
            out, width = weight.shape
            self._linear = te.Linear(
                width, out, bias=False, params_dtype=weight.dtype, device="meta"
            )
        # The parameter stays the layer's: its gradient goes where the optimizer looks.
        self._linear.weight = weight
        with te.autocast(recipe=Float8CurrentScaling()):
            y: Tensor = self._linear(x)
        return y
