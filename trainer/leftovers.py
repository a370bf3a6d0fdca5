"""Folders of saves and deletions that were killed, told from those of a process that lives."""

from __future__ import annotations

import fcntl
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TextIO

UNFINISHED = ".tmp"
"""Ends the name of a checkpoint that is being written or deleted."""
_LOCK = "lock"


def unfinished(checkpoint: Path) -> Path:
    """The name of a checkpoint that is not whole."""
    return checkpoint.with_name(checkpoint.name + UNFINISHED)


def mark_written(part: Path) -> TextIO:
    """Have a folder be known as one that is being written, until the file is closed."""
    file = (part / _LOCK).open("w")
    # Where the file system has no locks, leftovers stay, since none can be asked for.
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def mark_whole(part: Path, file: TextIO) -> None:
    """Take the mark away: the folder gets its name."""
    file.close()
    (part / _LOCK).unlink()


def clear_leftovers(checkpoints: Path) -> list[str]:
    """Delete what killed processes have left.

    Returns:
        For people, what was deleted and what was not, as another process may be writing it.
    """
    told = []
    for part in sorted(checkpoints.glob(f"step-*{UNFINISHED}")):
        if _is_written(part):
            told.append(f"{part}: another process seems to write it; delete it if none does")
        else:
            shutil.rmtree(part, ignore_errors=True)
            told.append(f"{part}: deleted; the process that wrote it was killed")
    return told


def _is_written(part: Path) -> bool:
    try:
        with (part / _LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
