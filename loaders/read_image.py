"""Whatever a sample has for an image becomes pixels through one reader."""

from __future__ import annotations

import io
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from ..errors import RecordError
from .image_config import ImageConfig, Output

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TIFF_MODES = ("I", "F")
"""32 bits, which no PNG holds."""
_ALIKE = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA"}
"""Modes that no file holds -> one that shows the same."""


@runtime_checkable
class ImageReader(Protocol):
    """What makes pixels of an image file; a PixelReader is one."""

    @property
    def config(self) -> ImageConfig | None:
        """Settings, where there are any."""
        ...

    @property
    def output(self) -> Output:
        """Type of the pixels, where there is no config."""
        ...

    def read(self, data: bytes, *, name: str = "image") -> torch.Tensor:
        """Pixels of one image: [tiles, 3, height, width]."""
        ...

    def count_tiles(self, data: bytes, *, name: str = "image") -> int:
        """Tiles that `read` gives."""
        ...

    def describe(self) -> str:
        """In a line."""
        ...


def image_bytes(image: Any, name: str) -> bytes:
    """The image as the bytes of a file, losslessly.

    Image files pass through as they are. Pictures and tensors, which cookers and sample loaders of
    energon may give, are written as PNG or TIFF, so that one way of reading serves them all; a
    picture is taken as it lies, whatever EXIF it has.

    Args:
        image: bytes of a file, a PIL image, or a tensor uint8[3, height, width] or
            float[3, height, width] from 0 to 1.
        name: for messages.

    Raises:
        RecordError: it is none of these.
    """
    if isinstance(image, bytes):
        return image
    is_tensor = isinstance(image, torch.Tensor) and image.ndim == 3 and image.shape[0] == 3
    if is_tensor and (image.dtype == torch.uint8 or image.is_floating_point()):
        levels = (
            image if image.dtype == torch.uint8 else (image.float() * 255).round().clamp(0, 255)
        )
        image = Image.fromarray(levels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    if isinstance(image, Image.Image):
        return _file_of(image)
    raise RecordError(
        f"{name}: is a {type(image).__name__}; an image is bytes of a file, a PIL image or a "
        "tensor (3, height, width) of uint8, or of floats from 0 to 1",
        reason="bad_sample",
    )


def _file_of(picture: Image.Image) -> bytes:
    """A picture as a file that holds all it shows: its transparency, and more than 8 bits."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16))
    elif picture.mode in _ALIKE:
        picture = picture.convert(_ALIKE[picture.mode])
    elif picture.mode not in (*_PNG_MODES, *_TIFF_MODES):
        picture = picture.convert("RGB")
    file = io.BytesIO()
    if picture.mode in _TIFF_MODES:
        # A copy has none of the tags that an opened TIFF would hand on.
        picture.copy().save(file, "TIFF")
    else:
        picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def read_images(key: str, images: tuple[Any, ...], reader: ImageReader) -> torch.Tensor | None:
    """Tiles of all images of a sample, one after another; None without images.

    Returns:
        uint8 or float[tiles, 3, height, width]

    Raises:
        ImageError: an image is damaged or over the limit; the message has the key.
        RecordError: it is no image.
    """
    if not images:
        return None
    tiles = []
    for number, image in enumerate(images):
        name = f"sample {key}, image {number}"
        tiles.append(reader.read(image_bytes(image, name), name=name))
    return tiles[0] if len(tiles) == 1 else torch.cat(tiles)


def count_tiles(key: str, images: tuple[Any, ...], reader: ImageReader) -> list[int]:
    """Tiles of each image; from its header where the reader allows that.

    Raises:
        ImageError: an image is damaged.
        RecordError: it is no image.
    """
    if reader.config is not None and reader.config.fit != "grid":
        return [1] * len(images)
    return [
        reader.count_tiles(image_bytes(image, name), name=name)
        for number, image in enumerate(images)
        for name in (f"sample {key}, image {number}",)
    ]
