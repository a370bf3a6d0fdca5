"""Reading one tar front to back: its members, where they lie, and the hash of every byte."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import BinaryIO

import xxhash

from .tar import BLOCK_BYTES, padding

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of a tar."""

    key: str
    name: str
    """What follows the key and a dot."""
    start: int
    """Offset of its header."""
    offset: int
    """Offset of its content."""
    data: bytes

    @property
    def end(self) -> int:
        """Offset of what follows it."""
        return self.offset + len(self.data) + padding(len(self.data))


class BrokenTarError(Exception):
    """A tar that convert would not have written.

    Attributes:
        offset: byte of the tar where it goes wrong.
    """

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


class TarReader:
    """Reads a tar front to back, hashing every byte on the way."""

    def __init__(self, file: BinaryIO, size: int | None = None) -> None:
        """Take an open tar, at its beginning, and its bytes; None asks the system for them."""
        self.offset = 0
        self.size = os.fstat(file.fileno()).st_size if size is None else size
        self._file = file
        self._hash = xxhash.xxh3_128()

    def members(self) -> Iterator[Member]:
        """Yield the members up to the closing zero blocks.

        Raises:
            BrokenTarError: what stands at an offset is no member that convert would write.
        """
        while True:
            start = self.offset
            header = self._read(BLOCK_BYTES)
            if len(header) < BLOCK_BYTES:
                raise BrokenTarError(start, "the tar ends here, without its closing zero blocks")
            if not any(header):
                self.offset = start
                return
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
            except tarfile.HeaderError as error:
                raise BrokenTarError(start, f"the tar header is damaged ({error})") from error
            if not info.isreg():
                raise BrokenTarError(start, f"member {info.name!r} is no regular file")
            if info.size > self.size - self.offset:
                raise BrokenTarError(
                    start,
                    f"member {info.name!r} should have {info.size:,} bytes, but the tar ends "
                    f"{self.size - self.offset:,} bytes after its header",
                )
            key, _, name = info.name.partition(".")
            offset = self.offset
            data = self._read(info.size)
            self._read(padding(info.size))
            yield Member(key=key, name=name, start=start, offset=offset, data=data)

    def samples(self) -> Iterator[list[Member]]:
        """The members of each sample: those that follow each other with one key.

        Raises:
            BrokenTarError: as of `members`.
        """
        for _, members in groupby(self.members(), key=attrgetter("key")):
            yield list(members)

    def finish(self) -> tuple[str, bool]:
        """Read the rest.

        Returns:
            xxh3_128 of the whole file, and whether the rest was the zeros that close a tar.
        """
        zeros = self.size - self.offset >= 2 * BLOCK_BYTES
        while chunk := self._read(_CHUNK_BYTES):
            zeros = zeros and not any(chunk)
        return self._hash.hexdigest(), zeros

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self.offset += len(data)
        return data
