"""Bytes of colour become the numbers a vision encoder is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
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
    # 255 is a tensor, since CUDA multiplies by 1/255 where it is a number, and rounds otherwise.
    whole, mean_, std_ = (
        _per_channel(tuple(numbers), pixels.device) for numbers in ((255.0,) * 3, mean, std)
    )
    return pixels.to(torch.float32).div_(whole).sub_(mean_).div_(std_).to(dtype)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """float32[3, 1, 1]; kept, since a copy to a GPU waits for all that it has to do."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


def normalize_array(
    pixels: np.ndarray, *, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype
) -> torch.Tensor:
    """What `normalize` gives, bit for bit, on one core: torch's steps would each wake all of them.

    Args:
        pixels: uint8[..., 3, height, width]
        mean: of red, green, blue, of values from 0 to 1.
        std: of red, green, blue.
        dtype: of the result; it is rounded to it last.

    Returns:
        dtype[..., 3, height, width]
    """
    values = np.divide(pixels, np.float32(255), dtype=np.float32)
    values -= np.array(mean, np.float32).reshape(3, 1, 1)
    values /= np.array(std, np.float32).reshape(3, 1, 1)
    return torch.from_numpy(values).to(dtype)
