"""Any-resolution tiles: which grid a picture gets, and where it lies on it (LLaVA-NeXT)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def choose_grid(width: int, height: int, grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The resolution that keeps most of a picture's pixels; of equal ones the smallest, then first.

    Args:
        width: of the picture.
        height: of the picture.
        grids: (height, width) of each resolution.

    Returns:
        (height, width)

    Example:
        >>> choose_grid(640, 480, [(336, 672), (672, 336), (672, 672)])
        (672, 672)
    """

    def kept_and_little_wasted(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        # Enlarging a picture adds nothing to it.
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, -grid[0] * grid[1]

    return max(grids, key=kept_and_little_wasted)


def size_on_grid(width: int, height: int, grid: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture that fills a grid one way and fits into it the other way.

    Example:
        >>> size_on_grid(640, 480, (672, 672))
        (672, 504)
    """
    across, down = grid[1] / width, grid[0] / height
    if across < down:
        return grid[1], min(math.ceil(height * across), grid[0])
    return min(math.ceil(width * down), grid[1]), grid[0]


def tiles_of_grid(grid: tuple[int, int], size: int) -> int:
    """Tiles of a picture on a grid, the whole picture in small included.

    Example:
        >>> tiles_of_grid((672, 336), 336)
        3
    """
    return 1 + (grid[0] // size) * (grid[1] // size)


def split_into_tiles(pixels: np.ndarray, size: int) -> np.ndarray:
    """Cut a grid row by row.

    Args:
        pixels: [3, rows * size, columns * size]
        size: height and width of a tile.

    Returns:
        [rows * columns, 3, size, size]
    """
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    tiles = pixels.reshape(3, rows, size, columns, size).transpose(1, 3, 0, 2, 4)
    # A grid of one row or column would stay a view, its tiles entwined in memory.
    return np.ascontiguousarray(tiles).reshape(rows * columns, 3, size, size)
