"""A source that lies elsewhere is copied to the work folder, and is then like any other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

from ..errors import RecordError
from ..loaders.remote import Listed, Place, open_place
from ..loaders.remote_copy import copy_object
from ..loaders.remote_errors import MissingObjectError
from .files import temporary, told


def fetch_source(given: str | os.PathLike[str], work: Path) -> tuple[Path, str]:
    """Copy an object, or all objects below a prefix, to the work folder.

    What was copied before is not copied again, so that a conversion goes on with what it began.

    Returns:
        The copy, and the address of the folder that the source lies in.

    Raises:
        RecordError: nothing is there.
        RemoteError: the service refuses.
        ShardError: the disk refuses.
    """
    place = open_place(given)
    parent = Place(place.address.parent)
    target = work / "fetched" / place.address.name
    if target.exists():
        return target, str(parent if target.is_file() else place)
    with told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        size = place.size() if place.address.key else None
    except MissingObjectError:
        size = None
    if size is not None:
        copy_object(place, size, target)
        return target, str(parent)
    _fetch_all(place, target)
    return target, str(place)


def _fetch_all(place: Place, target: Path) -> None:
    listed = [entry for entry in place.listed() if _is_inside(entry)]
    if not listed:
        raise RecordError(f"{place}: nothing is there; check the address")
    whole = temporary(target)
    with told(whole):
        shutil.rmtree(whole, ignore_errors=True)
        for name, size in listed:
            (whole / name).parent.mkdir(parents=True, exist_ok=True)
            copy_object(place / name, size, whole / name)
        os.rename(whole, target)


def _is_inside(entry: Listed) -> bool:
    """Whether an object's name is that of a file below a folder: keys may be anything."""
    parts = PurePosixPath(entry.name).parts
    return ".." not in parts and not entry.name.startswith("/") and "\0" not in entry.name
