"""Objects copied to files, several ranges at a time; a file has its name once it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ..errors import ShardError
from .remote import Place
from .remote_errors import RemoteError

RANGE_BYTES = 8 << 20
PARALLEL = 8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def copy_object(place: Place, size: int, target: Path) -> None:
    """Copy an object to a file.

    Args:
        place: the object.
        size: its bytes.
        target: the file.

    Raises:
        RemoteError: the service refuses, or the object changes meanwhile.
        ShardError: the disk refuses.
    """
    # Several processes may make the same copy.
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _refused(target, error) from error

    def copy(start: int) -> None:
        stop = min(start + RANGE_BYTES, size)
        content = memoryview(place.read(start=start, stop=stop))
        if len(content) != stop - start:
            raise RemoteError(f"{place}: has changed while it was read; run again")
        while content:
            written = os.pwrite(fd, content, start)
            start, content = start + written, content[written:]

    try:
        in_parallel(copy, range(0, size, RANGE_BYTES))
        os.fsync(fd)
        os.replace(partial, target)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        os.close(fd)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def in_parallel(ask: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """What each request gives, in order; the first that fails ends the others."""
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        return list(pool.map(ask, items))
    finally:
        pool.shutdown(cancel_futures=True)


def _refused(target: Path, error: OSError) -> ShardError:
    return ShardError(
        f"{target}: cannot be written: {error.strerror or error}; see to the disk, then go on"
    )
