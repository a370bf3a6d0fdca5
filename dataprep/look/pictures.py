"""Pictures: small ones for a list, and those that the model gets."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import ImageError
from .view import ImageView, SampleView

if TYPE_CHECKING:
    from torch import Tensor

    from ...loaders.read_image import ImageReader

MAX_PIXELS = 40_000_000
"""Of an image that is decoded to be looked at: 120 MB for a moment."""
Pixels = npt.NDArray[np.uint8]


def thumbnail(data: bytes, edge: int) -> bytes:
    """A JPEG of an image whose longer edge is at most `edge`.

    Raises:
        ImageError: it is no image, damaged, or has more than MAX_PIXELS.
    """
    from ...loaders.decode import decode_image

    picture = decode_image(data, max_pixels=MAX_PIXELS)
    picture.thumbnail((edge, edge))
    return encode_jpeg(np.asarray(picture))


def encode_jpeg(pixels: Pixels, quality: int = 80) -> bytes:
    """uint8[height, width, 3] as a JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def as_the_model_sees(
    data: bytes, reader: ImageReader, *, name: str = "image"
) -> tuple[Pixels, ...]:
    """The tiles that a reader makes of an image, made visible again.

    Returns:
        uint8[height, width, 3] each.

    Raises:
        ImageError: it is no image, damaged, or over the reader's limit.
    """
    return denormalise(reader.read(data, name=name), reader)


def denormalise(pixels: Tensor, reader: ImageReader) -> tuple[Pixels, ...]:
    """Tiles uint8 or float[tiles, 3, height, width] as uint8[height, width, 3] each.

    A processor that does not tell its mean and deviation leaves its tiles stretched from their
    smallest to their largest value.
    """
    import torch

    values = pixels
    if pixels.dtype != torch.uint8:
        levels = _levels(pixels.to(torch.float32), reader)
        values = levels.mul(255).round().clamp(0, 255).to(torch.uint8)
    return tuple(tile.permute(1, 2, 0).contiguous().numpy() for tile in values)


def _levels(pixels: Tensor, reader: ImageReader) -> Tensor:
    """Values from 0 to 1."""
    import torch

    source: Any = reader.config or getattr(reader, "processor", None)
    mean = getattr(source, "mean", getattr(source, "image_mean", None))
    std = getattr(source, "std", getattr(source, "image_std", None))
    if mean is None or std is None:
        low, high = pixels.amin(), pixels.amax()
        return (pixels - low) / (high - low).clamp(min=1e-6)
    if getattr(source, "do_normalize", True):
        # Three numbers, or one for all colours.
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1) for numbers in (mean, std)
        )
        pixels = pixels * std + mean
    factor = getattr(source, "rescale_factor", 1 / 255)
    return pixels / (255 * factor if getattr(source, "do_rescale", True) else 255)


def with_tiles(sample: SampleView, reader: ImageReader) -> SampleView:
    """The sample with each image as the model gets it, or why it cannot be had."""
    return replace(sample, images=tuple(_with_tiles(image, reader) for image in sample.images))


def _with_tiles(image: ImageView, reader: Any) -> ImageView:
    if image.data is None:
        return image
    try:
        return replace(image, tiles=as_the_model_sees(image.data, reader, name=image.name))
    except ImageError as error:
        return replace(image, error=str(error))
