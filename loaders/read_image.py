"""Whatever a sample has for an image becomes pixels through one reader."""

from __future__ import annotations

import io
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image

from ..errors import RecordError
from .image_config import ImageConfig, Output


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
    energon may give, are written as PNG, so that one way of reading serves them all.

    Args:
        image: bytes of a file, a PIL image, or a tensor uint8[3, height, width] or
            float[3, height, width] from 0 to 1.
        name: for messages.

    Raises:
        RecordError: it is none of these.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, torch.Tensor) and image.ndim == 3 and image.shape[0] == 3:
        levels = (
            image if image.dtype == torch.uint8 else (image.float() * 255).round().clamp(0, 255)
        )
        image = Image.fromarray(levels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        (image if image.mode in ("L", "RGB", "RGBA", "P") else image.convert("RGB")).save(
            file, "PNG", compress_level=1
        )
        return file.getvalue()
    raise RecordError(
        f"{name}: is a {type(image).__name__}; an image is bytes of a file, a PIL image or a "
        "tensor of shape (3, height, width)",
        reason="bad_sample",
    )


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
