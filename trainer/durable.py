"""Folders that a power cut leaves whole under their name, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


def rename_durably(part: Path, target: Path) -> None:
    """Give a folder its name once everything in it is on the disk, and the name right after."""
    # All of it: megatron-core syncs the weights, but not every small file beside them.
    for folder, _, names in os.walk(part):
        for name in names:
            sync_file(Path(folder, name))
        _sync_folder(Path(folder))
    part.rename(target)
    _sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Have what was written to a file be on the disk."""
    _sync(path, os.O_RDONLY)


def _sync_folder(path: Path) -> None:
    """Have the names in a folder be on the disk."""
    try:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        # Some file systems of networks and buckets keep names by themselves.
        if error.errno not in _CANNOT:
            raise


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
