"""Writing one tar: samples are gathered in a buffer, kept or taken back, hashed and written.

What is written goes from the buffer to the disk, past the page cache: nobody reads it soon, and
through the cache it costs twice as much. Meanwhile a second buffer is filled.
"""

from __future__ import annotations

import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import xxhash

from .files import open_alone, pass_cache_by, publish, reserve, temporary, told, write_all
from .tar import BLOCK_BYTES, archive_end, write_header

# A disk that is written past the cache wants much at once, memory has pages of 2 MiB, and larger
# buffers change hands more rarely: 16 MiB took a twelfth less CPU than 8, and 32 and 64 no less.
BUFFER_BYTES = 16 << 20
_PAGE_BYTES = 4096
"""Of such writes: they begin and end at multiples of it, in memory and in the file."""
_HAS_LARGE_PAGES = hasattr(mmap, "MADV_HUGEPAGE")
# Shared memory, mmap's default, gets no large pages.
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_ZEROS = bytes(BLOCK_BYTES)
_HAS_ADVICE = hasattr(os, "posix_fadvise")
_SPARE = 3 * BLOCK_BYTES
"""Of a member beside its content: header, padding, and the byte by which files may grow."""


Part = tuple[int, str, int, int]
"""One member, as energon's table `sample_parts` has it: index of the sample in the tar, name of the
member after the key and a dot, offset of its content in the tar, bytes of its content."""


class TarWriter:
    """A tar being written under a temporary name, sample by sample.

    A sample is whole in the buffer before any of it is written, so that it can be taken back.
    """

    def __init__(self, path: Path | None, expected_bytes: int = 0) -> None:
        """Begin a tar; without a path nothing is written, which is how a dry run reads images.

        Args:
            path: of the finished tar.
            expected_bytes: what it will have, more or less.
        """
        self.path = path
        self.starts: list[int] = []
        self.parts: list[Part] = []
        self._fd = -1
        self._hash = xxhash.xxh3_128()
        self._buffer = _buffer(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._other = self._buffer  # takes turns with it
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._base = 0  # offset in the tar of the buffer's first byte
        self._sample = 0  # in the buffer: where the open sample begins
        self._end = 0  # in the buffer: where its next member goes
        self._kept_parts = 0
        if path is not None:
            with told(path):
                self._fd = open_alone(path)
            pass_cache_by(self._fd)
            if expected_bytes:
                reserve(self._fd, expected_bytes)

    @property
    def offset(self) -> int:
        """Where the next member's header goes, in the tar."""
        return self._base + self._end

    def room(self, size: int) -> memoryview:
        """Where the next member's content goes: so many bytes; what was given before is void."""
        if self._end + size + _SPARE > len(self._buffer):
            self._reserve(size)
        start = self._end + BLOCK_BYTES
        return self._view[start : start + size]

    def add_content(self, name: str, key: str, size: int) -> None:
        """Make what was put into the room a member of the open sample."""
        content = self._end + BLOCK_BYTES
        stop = content + size
        # Padding is less than a block; the rest of that is written over.
        self._view[stop : stop + BLOCK_BYTES] = _ZEROS
        write_header(self._view[self._end : content], f"{key}.{name}", size)
        self.parts.append((len(self.starts), name, self._base + content, size))
        self._end = stop + -size % BLOCK_BYTES

    def add_bytes(self, name: str, key: str, data: bytes) -> None:
        """Add a member to the open sample."""
        size = len(data)
        if self._end + size + _SPARE > len(self._buffer):
            self._reserve(size)
        content = self._end + BLOCK_BYTES
        self._view[content : content + size] = data
        self.add_content(name, key, size)

    def keep_sample(self) -> None:
        """The open sample is good: it will be in the tar."""
        self.starts.append(self._base + self._sample)
        self._sample = self._end
        self._kept_parts = len(self.parts)

    def drop_sample(self) -> None:
        """Take the open sample back."""
        del self.parts[self._kept_parts :]
        self._end = self._sample

    def finish(self) -> tuple[int, str]:
        """Write the rest, make it durable, and give the tar its name.

        Returns:
            Its bytes, and its xxh3_128 in hexadecimal.
        """
        assert self.path is not None and self._end == self._sample
        end = archive_end(self.offset)
        self._reserve(len(end) + _PAGE_BYTES)
        stop = self._end + len(end)
        whole = stop + -stop % _PAGE_BYTES
        self._view[self._end : whole] = bytes(whole - self._end)
        self._settle()
        self._hash.update(self._view[:stop])
        with told(self.path):
            write_all(self._fd, self._view[:whole])
            os.ftruncate(self._fd, self._base + stop)
            os.fsync(self._fd)
            # Closed last: until then nobody else may write under the temporary name.
            publish(self.path)
            self._close()
        return self._base + stop, self._hash.hexdigest()

    def abandon(self) -> None:
        """Remove what was written; nothing happens after `finish`."""
        # Not closed under a thread's hands: the next file to be opened has the same number.
        self._thread.shutdown()
        if self._fd >= 0 and self.path is not None:
            # Mostly something else has failed already, and that is what must be told; what cannot
            # be removed here is removed at the end.
            with suppress(OSError):
                temporary(self.path).unlink()
            with suppress(OSError):
                self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _reserve(self, size: int) -> None:
        """Make room for a member of a size behind the open sample's last one."""
        need = size + _SPARE
        self._flush()
        if self._end + need > len(self._buffer):
            larger = _buffer(self._end + need + BUFFER_BYTES)
            larger[: self._end] = self._view[: self._end]
            self._buffer, self._view = larger, memoryview(larger)

    def _flush(self) -> None:
        """Write the samples that are kept, in whole pages; the rest moves to the other buffer."""
        whole = self._sample - self._sample % _PAGE_BYTES
        if not whole:
            return
        rest = self._view[whole : self._end]
        self._settle()
        if self.path is not None:
            self._writing = self._thread.submit(self._write, self._view[:whole], self._base)
        if self._other is self._buffer or len(self._other) < len(rest):
            self._other = _buffer(len(rest) + BUFFER_BYTES)
        self._buffer, self._other = self._other, self._buffer
        self._view = memoryview(self._buffer)
        self._view[: len(rest)] = rest
        self._base += whole
        self._sample -= whole
        self._end = len(rest)

    def _settle(self) -> None:
        """Wait for what is being written, and raise what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, data: memoryview, at: int) -> None:
        assert self.path is not None
        self._hash.update(data)
        with told(self.path):
            write_all(self._fd, data)
        if _HAS_ADVICE:
            # Where the cache could not be passed by, Linux begins to write then; else the end waits
            # for a disk that had nothing to do.
            with suppress(OSError):
                os.posix_fadvise(self._fd, at, len(data), os.POSIX_FADV_DONTNEED)


def _buffer(size: int) -> mmap.mmap:
    """Memory that begins at a page's start: the kernel copies faster to there than to a bytearray.

    Its pages are large where the system has such: a fifth less time for reading and writing.
    """
    made = mmap.mmap(-1, size + -size % _PAGE_BYTES, flags=_PRIVATE)
    if _HAS_LARGE_PAGES:
        # A wish: some kernels are built without.
        with suppress(OSError):
            made.madvise(mmap.MADV_HUGEPAGE)
    return made
