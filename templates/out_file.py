"""A file that a command writes where its user says: it must not take the place of something else.

Stands in this folder since all the others may import it from here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError, NevaPrepError

DATASET_MARKS = (".nv-meta", "neva-prep.json", ".journal")
"""Names in the folder of a dataset, finished or not; those of loaders/format.py."""


def check_out_file(option: str, out: Path, *, given: Iterable[Path], begins: bytes) -> None:
    """Refuse to write over anything but what the same option wrote earlier.

    Args:
        option: that names the file, for the message.
        out: the file to be written.
        given: what the command reads: files, or folders with all that is in them.
        begins: how a file of this kind begins, which no other file does.

    Raises:
        ConfigError: there is something else, no folder, or a dataset's folder.
    """
    named = f"{option} {out}"
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"{named}: give a file in a folder that exists")
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"{named}: no file may be written there; give one in another folder")
    folders = out.resolve().parents
    for path in given:
        with suppress(FileNotFoundError):
            if out.samefile(path):
                raise ConfigError(f"{named}: is the source itself; give another file")
        if path.is_dir() and path.resolve() in folders:
            raise ConfigError(f"{named}: lies in {path}, which is read; give a file outside")
    for folder in folders:
        if any((folder / mark).exists() for mark in DATASET_MARKS):
            raise ConfigError(f"{named}: lies in the dataset {folder}; give a file outside")
    if out.exists() and not _is_earlier(out, begins):
        raise ConfigError(
            f"{named}: exists, and {option} did not write it; give another file, or remove it"
        )


def write_out_file(option: str, out: Path, data: bytes) -> None:
    """Write it under a name of its own, then put it in its place.

    Raises:
        NevaPrepError: the operating system refuses; what was there is still there.
    """
    partial = out.with_name(f".{out.name[:200]}.{os.getpid()}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(data)
        partial.replace(out)
    except OSError as error:
        raise NevaPrepError(
            f"{option} {out}: cannot be written ({error.strerror}); see to the disk"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _is_earlier(out: Path, begins: bytes) -> bool:
    """Whether a file is of this kind; one without content is nothing that could be lost."""
    if not out.is_file():
        return False
    try:
        with out.open("rb") as file:
            found = file.read(len(begins))
    except OSError:
        return False
    return found in (begins, b"")
