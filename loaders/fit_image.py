"""The bytes of an image become the pixels of its tiles."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import ImageError
from .decode import decode_array, decode_image, upright_size
from .image_config import ImageConfig
from .pixel_values import normalize_array
from .resize import ExactPicture, FastPicture, Picture, size_by_shorter_edge
from .tiles import choose_grid, size_on_grid, split_into_tiles, tiles_of_grid

_BLACK = (0, 0, 0)
"""LLaVA-NeXT pads its tiles with it, not with the mean colour."""


def process_image(data: bytes, config: ImageConfig, *, name: str = "image") -> torch.Tensor:
    """What the model gets of an image.

    Args:
        data: the whole file.
        config: size, fit, and the rest.
        name: key or path, for messages.

    Returns:
        config.output[tiles, 3, height, width]; one tile, but for the fit `grid`: there the picture
        in small comes first, then the tiles row by row.

    Raises:
        ImageError: no image of a known format, over the pixel limit, or damaged.
    """
    picture = read_picture(data, config, name=name)
    _check_shape(picture, config, name)
    tiles = fit_picture(picture, config)
    if config.output == "uint8":
        return torch.from_numpy(tiles)
    dtype = torch.float32 if config.output == "float32" else torch.bfloat16
    return normalize_array(tiles, mean=config.mean, std=config.std, dtype=dtype)


def count_tiles(data: bytes, config: ImageConfig, *, name: str = "image") -> int:
    """Tiles that `process_image` gives, from the header; no pixel is decoded.

    Raises:
        ImageError: no image of a known format, over the pixel limit, or a damaged header.
    """
    if config.fit != "grid":
        return 1
    width, height = upright_size(data, max_pixels=config.max_pixels, name=name)
    return tiles_of_grid(choose_grid(width, height, config.grids), config.size)


def read_picture(data: bytes, config: ImageConfig, *, name: str = "image") -> Picture:
    """The decoded image, in the form that the mode works on.

    Raises:
        ImageError: no image of a known format, over the pixel limit, or damaged.
    """
    if config.mode == "exact":
        return ExactPicture(decode_image(data, max_pixels=config.max_pixels, name=name))
    return FastPicture(decode_array(data, max_pixels=config.max_pixels, name=name))


def fit_picture(picture: Picture, config: ImageConfig) -> np.ndarray:
    """Resize, cut and pad as `config.fit` says.

    Returns:
        uint8[tiles, 3, height, width]
    """
    size = config.size
    if config.fit == "crop":
        return picture.cover(size).planes()[None]
    if config.fit == "pad":
        return picture.pad_to_square(size, config.background).planes()[None]
    if config.fit == "keep":
        longer, shorter = max(picture.size), min(picture.size)
        edge = max(1, int(min(2 * size / (longer / shorter), size)))
        return picture.resize(*size_by_shorter_edge(picture.size, edge)).planes()[None]
    squashed = picture.resize(size, size).planes()[None]
    if config.fit == "squash":
        return squashed
    grid = choose_grid(*picture.size, config.grids)
    on_grid = picture.resize(*size_on_grid(*picture.size, grid)).pad(grid[1], grid[0], _BLACK)
    return np.concatenate([squashed, split_into_tiles(on_grid.planes(), size)])


def _check_shape(picture: Picture, config: ImageConfig, name: str) -> None:
    """Refuse a picture so long and thin that resizing it would fill the memory."""
    longer, shorter = max(picture.size), min(picture.size)
    edges = {"crop": (config.size, config.size * longer // shorter), "pad": (longer, longer)}
    width, height = edges.get(config.fit, (config.size, longer))
    if width * height > 2 * config.max_pixels:
        raise ImageError(
            f"{name}: is {picture.size[0]} x {picture.size[1]} pixels, which fit={config.fit!r} "
            f"makes {width} x {height} on the way, more than twice the limit of "
            f"{config.max_pixels:,}; crop the image, or raise max_pixels",
            reason="too_many_pixels",
        )
