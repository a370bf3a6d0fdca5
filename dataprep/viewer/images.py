"""Pictures by the number of a sample and of the image in it; no path is ever taken."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import ConfigError, ImageError, RecordError
from ..look.html import Limits, picture_bytes, read_asset
from ..look.pictures import thumbnail
from ..look.view import SampleView
from .site import Site

EDGES = (320, 672, 1344)
"""Longer edges that a picture is made in; any other number gets the next of these."""


def original(site: Site, index: int, number: int, edge: int) -> tuple[bytes, str]:
    """An image of a sample, small, and its media type; a sign in its place where there is none."""
    edge = next((known for known in EDGES if known >= edge), EDGES[-1])

    def make() -> bytes:
        images = _of_record(site.looked.sample, index).images
        if number >= len(images):
            raise ConfigError(f"sample {index}: has no image {number} to show")
        if (data := images[number].data) is None:
            raise ImageError(f"sample {index}: nobody said where its images are")
        return thumbnail(data, edge)

    try:
        return site.pictures.get(("original", index, number, edge), make), "image/jpeg"
    except ImageError:
        return _unreadable()


def tile(site: Site, of: str, number: int, image: int, tile: int) -> tuple[bytes, str]:
    """What the model gets of an image of a sample, or in a batch, and its media type.

    Args:
        site: what is looked at.
        of: `sample` or `batch`.
        number: of the sample or the batch.
        image: in it; of a batch the tile.
        tile: of the image.
    """

    def make() -> bytes:
        if of == "batch":
            media = site.batches.at(number).media
            pixels = media[image] if image < len(media) else None
        else:
            images = _of_record(site.flow.sample, number).images
            tiles = images[image].tiles if image < len(images) else ()
            pixels = tiles[tile] if tile < len(tiles) else None
        if pixels is None:
            raise ConfigError(f"{of} {number}: has no tile {tile} of image {image}")
        return picture_bytes(pixels, Limits().edge)

    try:
        return site.pictures.get(f"{of}/{number}/{image}/{tile}", make), "image/webp"
    except ImageError:
        return _unreadable()


def _of_record(sample: Callable[[int], SampleView], index: int) -> SampleView:
    """The sample that is made of a record.

    Raises:
        ConfigError: the record is rejected, so that it has no images.
    """
    try:
        return sample(index)
    except RecordError as error:
        raise ConfigError(f"sample {index}: has no image to show: {error}") from error


def _unreadable() -> tuple[bytes, str]:
    """A sign; a failed answer would fill the browser's console instead."""
    return read_asset("unreadable.svg").encode(), "image/svg+xml"
