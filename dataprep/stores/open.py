"""Tell what `--images` names."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ConfigError
from ...loaders.image_folder import ImageFolder
from ...loaders.remote import is_remote
from ..fetch import fetch_source
from . import table_images, tar_images, zip_images
from .embedded import WithEmbedded
from .store import ImageStore
from .table_files import is_pattern

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


def held_elsewhere(lying: str, address: str) -> str:
    """The same place by its address, where a source that holds its images was copied from there.

    Example:
        >>> held_elsewhere("table=/tmp/fetched/cats.parquet", "s3://raw/cats.parquet")
        'table=s3://raw/cats.parquet'
    """
    for prefix in HELD:
        if lying.startswith(prefix):
            return prefix + address
    return lying


def moved_images(lying: str, given: str | os.PathLike[str] | None) -> str:
    """Where images lie by now, of which a manifest says where they lay."""
    if given is None:
        return lying
    return held_elsewhere(lying, os.fspath(given)) if lying.startswith(HELD) else os.fspath(given)


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
    prefix = next((prefix for prefix in HELD if given.startswith(prefix)), None)
    if prefix is None:
        return WithEmbedded(_open(given, work))
    store = _open(_held_here(prefix, given.removeprefix(prefix), work), work)
    # The address of what was copied, if it was: the copy goes with the work folder.
    store.root = given if is_remote(given.removeprefix(prefix)) else store.root
    return WithEmbedded(store)


def _held_here(prefix: str, source: str, work: Path) -> str:
    """The place of the images of a source, which is copied if it lies elsewhere."""
    if is_remote(source):
        return f"{prefix}{os.path.realpath(fetch_source(source, work)[0])}"
    if not is_pattern(Path(source)) and not os.path.exists(source):
        raise ConfigError(
            f"{source}: the source that holds the images is not there; put it back, or give its "
            "place as --images of --retry"
        )
    return f"{prefix}{os.path.realpath(source)}"


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
