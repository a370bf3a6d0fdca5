"""Tell whether images are there, without reading them."""

from __future__ import annotations

from collections.abc import Callable

from ...loaders.image_folder import ImageFolder
from .embedded import EmbeddedImage, WithEmbedded
from .store import ImageStore
from .tar_images import TarImages
from .zip_images import ZipImages


def finder_of(store: ImageStore | None) -> Callable[[str], None] | None:
    """What raises ImageError for an image that a place lacks.

    Args:
        store: the place; None where nobody said where the images are.

    Returns:
        None also where only reading can tell: in a table, or at an address.
    """
    place = store.store if isinstance(store, WithEmbedded) else store
    if not isinstance(place, ImageFolder | ZipImages | TarImages):
        return None

    def find(path: str) -> None:
        if not isinstance(path, EmbeddedImage):
            place.find(path)

    return find
