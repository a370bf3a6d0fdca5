"""Products with trained weights in 8-bit floats, by Transformer Engine.

Weights, what flows by and gradients are rounded as they come, each tensor by one scale of its own
(e4m3 forward, e5m2 backward): no history of scales, so that a step depends on nothing but its
weights and its data, is recomputed exactly, and checkpoints hold nothing more.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch.nn.functional as F
from packaging.version import Version
from torch import Tensor

from ..errors import ConfigError

OLDEST = "2.9"
"""Release of Transformer Engine, the first with `autocast`."""

_ROWS = 16
"""What the number of rows must divide by: the gradient of a weight sums over them."""


@cache
def has_transformer_engine() -> bool:
    """Whether it is installed.

    Raises:
        ConfigError: it is, and is too old, or cannot be imported.
    """
    if importlib.util.find_spec("transformer_engine") is None:
        return False
    try:
        found: str = importlib.import_module("transformer_engine").__version__
        importlib.import_module("transformer_engine.pytorch")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"precision=fp8: Transformer Engine is installed, and cannot be imported ({error}); "
            "mend it, uninstall it, or use bf16"
        ) from error
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

        if self._linear is None:
            out, width = weight.shape
            self._linear = te.Linear(
                width, out, bias=False, params_dtype=weight.dtype, device="meta"
            )
        # The parameter stays the layer's: its gradient goes where the optimizer looks.
        self._linear.weight = weight
        with te.autocast(recipe=_recipe()):
            y: Tensor = self._linear(x)
        return y


@cache
def _recipe() -> Any:
    """One for all calls: making it takes as long as a small product."""
    from transformer_engine.common.recipe import Float8CurrentScaling

    return Float8CurrentScaling()
