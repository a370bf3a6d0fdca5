"""Tell what `--images` names."""

from __future__ import annotations

from pathlib import Path

from ..folder import ImageFolder
from .embedded import WithEmbedded
from .store import ImageStore


def open_images(given: str, work: Path) -> ImageStore:
    """Open the place where images lie.

    Args:
        given: what the user gave, or what a manifest kept of it.
        work: folder for what is worth keeping between processes, such as an archive's index; what
            is there already is used.

    Raises:
        ConfigError: it is no place of images.
    """
    return WithEmbedded(ImageFolder(given))
