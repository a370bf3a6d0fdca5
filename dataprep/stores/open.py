"""Tell what `--images` names."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ConfigError
from ...loaders.remote import is_remote
from ..folder import ImageFolder
from . import table_images, tar_images, zip_images
from .embedded import WithEmbedded
from .store import ImageStore

HELD = (table_images.PREFIX, tar_images.PREFIX)
"""Begins of places of images that are the source itself."""


def place_of_images(lying: str, given: str | os.PathLike[str] | None) -> str:
    """Where a source's images are read from.

    Args:
        lying: where the source has them.
        given: by the user; None for there.

    Raises:
        ConfigError: the source holds its images itself.
    """
    if given is None:
        return lying
    if lying.startswith(HELD):
        raise ConfigError(f"--images {given}: the source holds its images itself; leave it out")
    return os.fspath(given)


def open_images(given: str, work: Path) -> ImageStore:
    """Open the place where images lie.

    Args:
        given: what the user gave, or what a manifest kept of it.
        work: folder for what is worth keeping between processes, such as an archive's index; what
            is there already is used.

    Raises:
        ConfigError: it is no place of images.
    """
    if is_remote(given):
        from .remote import RemoteStore

        return RemoteStore(given, work)
    return WithEmbedded(_open(given, work))


def _open(given: str, work: Path) -> ImageStore:
    if given.startswith(table_images.PREFIX):
        return table_images.TableImages(given.removeprefix(table_images.PREFIX))
    if given.startswith(tar_images.PREFIX):
        return tar_images.TarImages(given, work)
    if not os.path.isfile(given):
        return ImageFolder(given)
    with open(given, "rb") as file:
        begin = file.read(512)
    if begin.startswith(zip_images.MAGIC):
        return zip_images.ZipImages(given, work)
    if begin[257:262] == b"ustar" or begin[:2] == b"\x1f\x8b":
        return tar_images.TarImages(given, work)
    raise ConfigError(f"--images {given}: is no folder, no zip archive and no tar; check the path")
