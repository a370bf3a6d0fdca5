"""Writing files so that a name never stands for half of its content."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ..errors import DiskError, ShardError

TEMPORARY_SUFFIX = ".tmp"
_ALONE_SECONDS = 60.0
_DIRECT = getattr(os, "O_DIRECT", 0)
"""Linux's name for that; others have none."""


def temporary(path: Path) -> Path:
    """The name under which a file is written until it is whole."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def open_alone(path: Path) -> int:
    """Open a file's temporary name, empty, for this process and no other, on any machine.

    A process on a node that was given up may go on writing for a while: it is waited for.

    Raises:
        ShardError: another process keeps writing it.
    """
    deadline = time.monotonic() + _ALONE_SECONDS
    while True:
        fd = os.open(temporary(path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = has_name(fd, temporary(path))
        except BlockingIOError:
            is_ours = False
        except OSError:
            # A file system without locks: there it is left to the user.
            is_ours = True
        if is_ours:
            os.ftruncate(fd, 0)
            return fd
        os.close(fd)
        if time.monotonic() > deadline:
            raise ShardError(
                f"{path}: another process is writing this file; wait for it, then run the same "
                "command again with --resume"
            )
        time.sleep(0.05)


def has_name(fd: int, path: Path) -> bool:
    """Whether an open file still has the name it was opened by: it may just have been renamed."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of it; a single os.write may write less.

    A file that passes the cache by goes through it from where that cannot be done.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError as error:
            if error.errno != errno.EINVAL or not _passes_cache_by(fd):
                raise
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~_DIRECT)


def pass_cache_by(fd: int) -> None:
    """Have what is written to a file go to the disk at once, not to the page cache before.

    That takes a third of the processor's time, and the disk is not behind at the end. A wish: where
    the file system cannot, nothing changes. Writes must be of whole pages, from the start of one.
    """
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | _DIRECT)


def _passes_cache_by(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & _DIRECT)


def reserve(fd: int, size: int) -> None:
    """Ask for a file's space at once, which spares a tenth of the work of writing it.

    A wish: where the file system cannot or will not, writing goes on as usual. The file must be cut
    to its size in the end. (os.posix_fallocate would write zeros where it is not supported.)
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size))


def publish(path: Path) -> None:
    """Give a file that is written and synced its final name, durably."""
    os.replace(temporary(path), path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, *contents: bytes | memoryview) -> None:
    """Write a file of one or several parts: all of it, or nothing under that name.

    Raises:
        ShardError: the disk refuses.
    """
    write_parts(path, contents)


def write_parts(path: Path, contents: Iterable[bytes | memoryview]) -> None:
    """The same of parts that are made one at a time.

    Raises:
        ShardError: the disk refuses.
    """
    with told(path):
        fd = os.open(temporary(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            for content in contents:
                write_all(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        publish(path)


@contextmanager
def told(path: Path, what: Literal["written", "read"] = "written") -> Iterator[None]:
    """Turn a refusal of the operating system into an error that says what to do.

    Args:
        path: for the message.
        what: what is being done with it.
    """
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be {what}: {error.strerror or error}; see to the disk, then run the "
            "same command again with --resume"
        ) from error
