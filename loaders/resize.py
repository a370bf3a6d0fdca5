"""A picture that can be resized, cut and padded: with Pillow's bits, or with torch's speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import PIL
import torch
from PIL import Image

Color = tuple[int, int, int]

_resize_bicubic = torch.ops.aten._upsample_bicubic2d_aa.out
_PILLOW_CHOOSES_ORDER = int(PIL.__version__.split(".")[0]) >= 13


class Picture(Protocol):
    """An RGB picture; its methods give others and leave it as it is."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""

    def resize(self, width: int, height: int) -> Picture:
        """The whole of it at another size: bicubic, smoothed where it shrinks."""

    def crop(self, width: int, height: int) -> Picture:
        """The middle of it."""

    def cover(self, size: int) -> Picture:
        """The middle square of the picture whose shorter edge is made `size` long."""

    def pad(self, width: int, height: int, color: Color) -> Picture:
        """The picture in the middle of a canvas of that size."""

    def pad_to_square(self, size: int, color: Color) -> Picture:
        """The picture in the middle of a square as wide as its longer edge, resized to `size`."""

    def planes(self) -> np.ndarray:
        """uint8[3, height, width]."""


@dataclass(frozen=True, slots=True)
class ExactPicture:
    """A Pillow image, resized by Pillow."""

    image: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.size

    def resize(self, width: int, height: int) -> ExactPicture:
        """The whole of it at another size, by Pillow's bicubic."""
        return ExactPicture(self.image.resize((width, height), Image.Resampling.BICUBIC))

    def crop(self, width: int, height: int) -> ExactPicture:
        """The middle of it."""
        left, top = (self.image.width - width) // 2, (self.image.height - height) // 2
        return ExactPicture(self.image.crop((left, top, left + width, top + height)))

    def cover(self, size: int) -> ExactPicture:
        """The middle square of the picture whose shorter edge is made `size` long."""
        width, height = size_by_shorter_edge(self.size, size)
        if width == size:
            return self.resize(width, height).crop(size, size)
        # A wide picture Pillow resizes across, then down: what is cut off at its sides need not go
        # down before.
        across = self.resize(width, self.size[1])
        return across.crop(size, self.size[1]).resize(size, size)

    def pad(self, width: int, height: int, color: Color) -> ExactPicture:
        """The picture in the middle of a canvas of that size."""
        canvas = Image.new("RGB", (width, height), color)
        canvas.paste(
            self.image, ((width - self.image.width) // 2, (height - self.image.height) // 2)
        )
        return ExactPicture(canvas)

    def pad_to_square(self, size: int, color: Color) -> ExactPicture:
        """The picture in the middle of a square as wide as its longer edge, resized to `size`."""
        width, height = self.size
        if width <= height:
            return self.pad(height, height, color).resize(size, size)
        # Pillow resizes across, then down, and across leaves a row of one colour as it is: the bars
        # above and below the picture need not be there before.
        return self.resize(size, height).pad(size, width, color).resize(size, size)

    def planes(self) -> np.ndarray:
        """uint8[3, height, width]."""
        return np.ascontiguousarray(np.asarray(self.image).transpose(2, 0, 1))


@dataclass(frozen=True, slots=True)
class FastPicture:
    """Pixels that torch resizes: Pillow's filter with coarser weights.

    Nothing else is left to torch, whose other steps would each wake all cores for a picture.
    """

    pixels: np.ndarray
    """uint8[height, width, 3], or 4 of which the last means nothing."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        height, width, _ = self.pixels.shape
        return width, height

    def resize(self, width: int, height: int) -> FastPicture:
        """The whole of it at another size, by torch's antialiased bicubic on bytes."""
        if _pillow_goes_down_first(self.size, (width, height)):
            return self._resize(self.size[0], height)._resize(width, height)
        return self._resize(width, height)

    def _resize(self, width: int, height: int) -> FastPicture:
        resized = np.empty((height, width, self.pixels.shape[2]), dtype=np.uint8)
        # What torch.nn.functional.interpolate calls: it gives no place for the result, and one of
        # torch's own has its colours apart, which takes a third of the time.
        _resize_bicubic(
            _channels_last(self.pixels), resized.shape[:2], False, out=_channels_last(resized)
        )
        return FastPicture(resized)

    def crop(self, width: int, height: int) -> FastPicture:
        """The middle of it."""
        left, top = (self.size[0] - width) // 2, (self.size[1] - height) // 2
        return FastPicture(self.pixels[top : top + height, left : left + width])

    def cover(self, size: int) -> FastPicture:
        """The middle square of the picture whose shorter edge is made `size` long."""
        return self.resize(*size_by_shorter_edge(self.size, size)).crop(size, size)

    def pad(self, width: int, height: int, color: Color) -> FastPicture:
        """The picture in the middle of a canvas of that size."""
        channels = self.pixels.shape[2]
        canvas = np.empty((height, width, channels), dtype=np.uint8)
        # Row by row: to fill pixel by pixel takes ten times as long.
        pixel = np.array([*color, 0][:channels], dtype=np.uint8)
        canvas.reshape(height, -1)[:] = np.tile(pixel, width)
        own_width, own_height = self.size
        left, top = (width - own_width) // 2, (height - own_height) // 2
        canvas[top : top + own_height, left : left + own_width] = self.pixels
        return FastPicture(canvas)

    def pad_to_square(self, size: int, color: Color) -> FastPicture:
        """The picture in the middle of a square as wide as its longer edge, resized to `size`."""
        longer = max(self.size)
        return self.pad(longer, longer, color).resize(size, size)

    def planes(self) -> np.ndarray:
        """uint8[3, height, width]."""
        return np.ascontiguousarray(self.pixels.transpose(2, 0, 1)[:3])


def size_by_shorter_edge(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Width and height of a picture whose shorter edge is made `edge` long."""
    width, height = size
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def _channels_last(pixels: np.ndarray) -> torch.Tensor:
    """uint8[height, width, channels] as torch's uint8[1, channels, height, width], not copied."""
    return torch.from_numpy(pixels[None]).permute(0, 3, 1, 2)


def _pillow_goes_down_first(size: tuple[int, int], new_size: tuple[int, int]) -> bool:
    """Whether Pillow resizes down and then across; torch always goes across first.

    What overshoots is cut between the two passes, so that at sharp edges the order shows: by some
    20 levels on scanned text. The rule was found by trying sizes.
    """
    (width, height), (new_width, new_height) = size, new_size
    lost = height - new_height
    return _PILLOW_CHOOSES_ORDER and lost > max(0, 2 * (width - new_width))
