"""Products with frozen weights in 8-bit floats, scaled by rows, on GPUs that multiply them.

Each row of a factor is divided by its largest magnitude, so that it fills e4m3's range of ±448, and
the product is multiplied back. Weights are rounded once; what flows by is rounded as it comes.
Adapters, norms, attention and the loss stay in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError

LARGEST = 448.0
"""Of float8_e4m3fn."""
_E4M3 = torch.float8_e4m3fn


def check_device() -> None:
    """Refuse hardware that cannot.

    Raises:
        ConfigError: there is no GPU, or one before Hopper and Ada.
    """
    if not torch.cuda.is_available():
        raise ConfigError("precision=fp8: needs a GPU, and there is none; use bf16")
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < (8, 9):
        raise ConfigError(
            f"precision=fp8: {torch.cuda.get_device_name()} multiplies no 8-bit floats (it has "
            f"compute capability {major}.{minor}; Ada, Hopper and later can, from 8.9); use bf16"
        )


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in e4m3, and what each is to be multiplied with.

    Args:
        x: [rows, width]

    Returns:
        float8[rows, width] and float32[rows, 1]
    """
    scale = x.abs().amax(-1, keepdim=True).float().clamp_min(1e-12) / LARGEST
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(_E4M3), scale


class Rounded:
    """A frozen weight in e4m3: by rows for the forward pass, by columns for the backward one."""

    def __init__(self, weight: Tensor) -> None:
        """Round it; later changes of the weight are not seen."""
        self.by_rows, self.row_scales = rounded(weight.detach())
        self.by_columns, self.column_scales = rounded(weight.detach().t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Give x Wᵀ."""
        return _product(x, self.by_rows, self.row_scales)

    def backward(self, dy: Tensor) -> Tensor:
        """Give dy W."""
        return _product(dy, self.by_columns, self.column_scales)


def _product(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Multiply by the transposed weight: [tokens, in] and [out, in] to [tokens, out]."""
    rows, row_scales = _rounded_fast(x)
    multiply: Any = torch._scaled_mm
    product: Tensor = multiply(
        rows,
        weight.t(),
        scale_a=row_scales,
        scale_b=scales.t(),
        out_dtype=x.dtype,
        use_fast_accum=True,
    )
    return product


def _rounded_fast(x: Tensor) -> tuple[Tensor, Tensor]:
    if not x.is_cuda:
        return rounded(x)
    from .fused.kernels import round_rows

    return round_rows(x)


class RoundedWeights:
    """The rounded form of each frozen layer, made when it is first asked for.

    The weight itself rests in the computer's memory from then on, 13 GB of a 7B model: checkpoints
    take it from there, and no product does.
    """

    def __init__(self) -> None:
        """Nothing is rounded yet."""
        self._made: dict[int, tuple[int, Rounded]] = {}

    def __call__(self, layer: Any) -> Rounded | None:
        """Of one of megatron-core's layers; None where it is trained."""
        weight: Tensor = layer.weight
        if weight.requires_grad:
            return None
        version, rounded_weight = self._made.get(id(layer), (-1, None))
        # A merged adapter or a checkpoint that is loaded changes the weight in its place.
        if rounded_weight is None or version != weight._version:
            where = weight if rounded_weight is None else rounded_weight.by_rows
            rounded_weight = Rounded(weight.to(where.device))
            weight.data = weight.data.cpu()
            self._made[id(layer)] = (weight._version, rounded_weight)
        return rounded_weight
