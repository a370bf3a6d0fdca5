"""Bytes of colour become the numbers a vision encoder is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def normalize(
    pixels: torch.Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """(pixels / 255 - mean) / std, wherever the pixels are.

    The three steps are rounded one by one in float32, as Hugging Face's processors round them, so
    each of the 256 values gives their bits, on a GPU too.

    Args:
        pixels: uint8[..., 3, height, width]
        mean: of red, green, blue, of values from 0 to 1.
        std: of red, green, blue.
        dtype: of the result; it is rounded to it last.

    Returns:
        dtype[..., 3, height, width]
    """

    def per_channel(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=pixels.device).view(3, 1, 1)

    # 255 is a tensor, since CUDA multiplies by 1/255 where it is a number, and rounds otherwise.
    values = pixels.to(torch.float32).div_(per_channel((255.0, 255.0, 255.0)))
    return values.sub_(per_channel(mean)).div_(per_channel(std)).to(dtype)
