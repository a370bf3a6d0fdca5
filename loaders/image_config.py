"""What is made of an image before the model sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError
from .decode import DEFAULT_MAX_PIXELS

Fit = Literal["crop", "pad", "squash", "keep", "grid"]
Mode = Literal["exact", "fast"]
Output = Literal["uint8", "float32", "bfloat16"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """How an image becomes pixels; the default is LLaVA-1.5's with its CLIP-L/14-336 encoder."""

    size: int = 336
    """Height and width of a tile."""
    fit: Fit = "pad"
    """How a picture comes into its square.

    - crop: the shorter edge becomes `size`, the middle of the longer one is taken (CLIP).
    - pad: set in the middle of a square of the mean colour, which is then shrunk (LLaVA-1.5).
    - squash: stretched to the square, whatever its shape (SigLIP).
    - keep: shape kept, no square: the shorter edge becomes `size`, or less if the longer one would
      exceed 2 x `size` (LLaVA's "keep"); such images cannot be batched.
    - grid: the picture squashed, then the tiles of it at higher resolution (LLaVA-NeXT).
    """
    grids: tuple[tuple[int, int], ...] = ()
    """Resolutions that `grid` chooses from: (height, width), multiples of `size`."""
    mode: Mode = "exact"
    """`exact` gives the bits of Pillow and Hugging Face, `fast` is within 2 of 255 levels of it."""
    output: Output = "float32"
    """`uint8` leaves it to `normalize`, on the device, where it costs nothing."""
    mean: tuple[float, ...] = CLIP_MEAN
    """Of red, green, blue, of values from 0 to 1."""
    std: tuple[float, ...] = CLIP_STD
    """Of red, green, blue, of values from 0 to 1."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Largest width x height of an image; what it is padded or resized to may have twice that."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work with a ConfigError."""
        for name, choices in (("fit", Fit), ("mode", Mode), ("output", Output)):
            if getattr(self, name) not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be one of {allowed}")
        if self.size < 1 or self.max_pixels < 1:
            raise ConfigError(f"size={self.size}, max_pixels={self.max_pixels}: must be 1 or more")
        if len(self.mean) != 3 or len(self.std) != 3 or 0.0 in self.std:
            raise ConfigError(
                f"mean={self.mean}, std={self.std}: must be three numbers each, and no std of 0"
            )
        if (self.fit == "grid") != bool(self.grids):
            raise ConfigError(
                f"fit={self.fit!r} with {len(self.grids)} grids: 'grid' needs at least one "
                "(height, width), the others take none"
            )
        if any(edge < self.size or edge % self.size for grid in self.grids for edge in grid):
            raise ConfigError(
                f"grids={self.grids}: heights and widths must be multiples of size={self.size}"
            )

    @property
    def background(self) -> tuple[int, int, int]:
        """Colour around a padded picture, as LLaVA rounds it."""
        red, green, blue = (int(value * 255) for value in self.mean)
        return red, green, blue
