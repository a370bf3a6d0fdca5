"""Shards that are read as if they were here: piece by piece, the next piece while one is read."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import ConfigError, ShardError
from .remote import Place
from .remote_cache import all_blocks, blocks_of, place_of, remote_of
from .remote_errors import RemoteError

BLOCK_BYTES = 4 << 20
PARALLEL_BLOCKS = 8
"""That one process has under way."""
DEFAULT_CACHE_GB = 50.0
_LOOK_SHARE = 32
"""The cache is looked through each time that a process wrote this part of what it may hold."""


def open_shard(path: Path) -> BinaryIO:
    """Open a shard for reading, wherever its dataset's folder has it.

    Raises:
        OSError: it is not there.
        RemoteError: the service refuses, or cannot be reached; also while it is read.
    """
    remote = remote_of(path.parent)
    if remote is None:
        return path.open("rb")
    if path.name not in remote.sizes:
        raise FileNotFoundError(f"{remote.url}: has no shard {path.name}")
    size = remote.sizes[path.name]
    file = RemoteShard(place_of(remote) / path.name, size, blocks_of(path))
    return cast(BinaryIO, file)


def shard_size(path: Path) -> int:
    """Bytes of a shard; an OSError where it is not there."""
    remote = remote_of(path.parent)
    if remote is None:
        return path.stat().st_size
    return remote.sizes[path.name]


class RemoteShard(io.RawIOBase):
    """A shard elsewhere, as a file for reading; its pieces are kept in a folder."""

    def __init__(self, place: Place, size: int, blocks: Path) -> None:
        """Take what is known; nothing is asked yet.

        Args:
            place: the object.
            size: its bytes.
            blocks: folder of its pieces.
        """
        super().__init__()
        self._place, self._size, self._blocks = place, size, blocks
        self._at = 0
        self._number, self._fd = -1, -1
        self._ahead: dict[int, Future[None]] = {}

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where it is read next."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        """Fill a buffer as far as one piece reaches."""
        target = memoryview(buffer)  # type: ignore[arg-type]
        content = self._piece(len(target))
        target[: len(content)] = content
        return len(content)

    def read(self, size: int = -1) -> bytes:
        """So many bytes, fewer only at the end; all of the rest without a number."""
        wanted = self._size - self._at if size is None or size < 0 else size
        pieces = []
        while wanted > 0 and (piece := self._piece(wanted)):
            pieces.append(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Let go of it; its pieces stay."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def _piece(self, wanted: int) -> bytes:
        """Up to so many bytes from one block."""
        if self._at >= self._size or wanted <= 0:
            return b""
        number, offset = divmod(self._at, BLOCK_BYTES)
        if number != self._number:
            self._go_to(number)
        content = os.pread(self._fd, min(wanted, self._block_size(number) - offset), offset)
        if not content:
            raise ShardError(f"{self._file(number)}: is cut off; remove the folder {self._blocks}")
        self._at += len(content)
        return content

    def _go_to(self, number: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._number = self._fd = -1
        waiting = self._ahead.pop(number, None)
        if waiting is not None:
            waiting.result()
        while True:
            with suppress(FileNotFoundError):
                self._fd = os.open(self._file(number), os.O_RDONLY | os.O_CLOEXEC)
                break
            # Never here, or removed to make room.
            self._fetch(number)
        os.utime(self._fd)
        self._number = number
        following = number + 1
        if following * BLOCK_BYTES < self._size and not self._file(following).exists():
            self._ahead = {following: _threads().submit(self._fetch, following)}

    def _fetch(self, number: int) -> None:
        start, size = number * BLOCK_BYTES, self._block_size(number)
        content = self._place.read(start=start, stop=start + size)
        if len(content) != size:
            raise RemoteError(f"{self._place}: has changed since it was opened; open it again")
        _keep(self._file(number), content)

    def _block_size(self, number: int) -> int:
        return min(BLOCK_BYTES, self._size - number * BLOCK_BYTES)

    def _file(self, number: int) -> Path:
        return self._blocks / f"{number:06d}"


def _keep(file: Path, content: bytes) -> None:
    """Put a block into the cache, and remove old ones beyond the cap."""
    partial = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ShardError(
            f"{file.parent}: cannot be written: {error.strerror}; set NEVA_PREP_CACHE to a disk "
            "with room, or NEVA_PREP_CACHE_GB to less"
        ) from error
    _count.add(len(content))


class _Count:
    """What this process wrote since it last looked through the cache."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: int | None = None

    def add(self, num_bytes: int) -> None:
        cap = cache_cap()
        with self._lock:
            # A process that begins looks at once: what is there may be of another cap.
            is_due = self._written is None or self._written + num_bytes > cap // _LOOK_SHARE
            self._written = 0 if is_due else (self._written or 0) + num_bytes
        if is_due:
            make_room(cap)


def cache_cap() -> int:
    """Bytes that the blocks of all datasets may have together.

    Raises:
        ConfigError: NEVA_PREP_CACHE_GB is no number above 0.
    """
    given = os.environ.get("NEVA_PREP_CACHE_GB", str(DEFAULT_CACHE_GB))
    try:
        cap = int(float(given) * 1e9)
    except (ValueError, OverflowError):
        cap = 0
    if cap <= 0:
        raise ConfigError(f"NEVA_PREP_CACHE_GB={given}: must be a number of gigabytes above 0")
    return cap


def make_room(cap: int) -> None:
    """Remove the blocks that were not read for longest, until nine tenths of the cap are left."""
    found: list[tuple[float, int, str]] = []
    for file in all_blocks():
        # Another process may be faster.
        with suppress(OSError):
            status = file.stat()
            found.append((status.st_mtime, status.st_size, str(file)))
    total = sum(size for _, size, _ in found)
    if total <= cap:
        return
    for _, size, name in sorted(found):
        if total <= cap * 0.9:
            break
        with suppress(OSError):
            os.unlink(name)
        total -= size


_count = _Count()
_pool: ThreadPoolExecutor | None = None
_pool_process = -1


def _threads() -> ThreadPoolExecutor:
    """The threads of this process that read ahead: a parent's do not come along."""
    global _pool, _pool_process
    if _pool is None or _pool_process != os.getpid():
        _pool = ThreadPoolExecutor(PARALLEL_BLOCKS, "shards")
        _pool_process = os.getpid()
    return _pool
