"""Pictures that are hard on a resizer, and Hugging Face's processor for each fit."""

import io
from typing import Any

import numpy as np
from PIL import Image

SHAPES = {
    "photo, wide": (160, 120),
    "photo, tall": (90, 135),
    "square": (200, 200),
    "page, so tall that Pillow resizes it down first": (300, 900),
    "banner": (900, 41),
    "enlarged": (31, 23),
    "enlarged across, shrunk down": (20, 700),
    "a column": (1, 50),
    "one pixel": (1, 1),
}
"""(width, height)"""


def draw(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """A picture with hard edges, soft ramps and grain in each of its colours."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width]
    bars = 255.0 * ((across // 3 + down // 5) % 2)
    ramp = 255.0 * (across + down) / (width + height)
    grain = rng.uniform(0, 255, (height, width))
    rgb = np.stack([bars, ramp, grain], axis=-1)
    rgb[height // 3 :, width // 2 :] = 255 * rng.integers(0, 2, 3)
    return Image.fromarray(rgb.astype(np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def hf_processor(fit: str, edge: int, **settings: Any) -> Any:
    """The processor of transformers, PIL backend, that defines a fit."""
    from transformers import (
        CLIPImageProcessorPil,
        LlavaImageProcessorPil,
        LlavaNextImageProcessorPil,
        SiglipImageProcessorPil,
    )

    square = {"height": edge, "width": edge}
    cropped = {"size": {"shortest_edge": edge}, "crop_size": square} | settings
    if fit == "crop":
        return CLIPImageProcessorPil(**cropped)
    if fit == "pad":
        return LlavaImageProcessorPil(do_pad=True, **cropped)
    if fit == "squash":
        return SiglipImageProcessorPil(**{"size": square} | settings)
    grids = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
    pinpoints = [[rows * edge, columns * edge] for rows, columns in grids]
    return LlavaNextImageProcessorPil(**{"image_grid_pinpoints": pinpoints} | cropped)
