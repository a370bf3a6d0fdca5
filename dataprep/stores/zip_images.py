"""Images inside a zip archive, read in place: stored or deflated, of any size (zip64)."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from ...errors import ConfigError, ImageError
from ...loaders.image_folder import Room
from .archive_file import ArchiveFile, check_size, refuse, reject_damaged
from .archive_index import Entry, open_index

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
"""Begin of an archive with members, and of one without."""
_END = struct.Struct("<4s4H2LH")
_END64_PLACE = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_MEMBER = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 1, 1 << 11
_CHUNK_BYTES = 1 << 20


class ZipImages:
    """Images of a zip archive by their names."""

    def __init__(self, given: str, work: Path) -> None:
        """Open an archive; see stores.open.open_images.

        Raises:
            ConfigError: it cannot be opened, is damaged or encrypted.
        """
        self.root = os.path.realpath(given)
        self._file = ArchiveFile(Path(self.root))
        self._index = open_index(work, [self._file.path], lambda: scan_zip(self._file))

    def size(self, path: str) -> int:
        """See stores.store.ImageStore."""
        try:
            return self._index.find(path, self.root).size
        except ImageError:
            return 0

    def find(self, path: str) -> Entry:
        """Where an image lies in the archive, which is not read.

        Raises:
            ImageError: with the reason; the message has the path.
        """
        entry = self._index.find(path, self.root)
        check_size(path, entry.size)
        if entry.kind not in (_STORED, _DEFLATED):
            raise ImageError(
                f"image {path!r} is packed in {self.root} by method {entry.kind}, which is not "
                "read here",
                reason="unreadable_image",
            )
        return entry

    def read_into(self, path: str, room: Room) -> memoryview:
        """See stores.store.ImageStore.

        Raises:
            ImageError: with the reason; the message has the path.
            DiskError: the machine cannot read it.
        """
        entry = self.find(path)
        target = room(entry.size)
        start = self._content_start(path, entry)
        if entry.kind == _STORED:
            got = self._file.read_into(start, target)
        else:
            got = self._inflate(path, entry, start, target)
        if got != entry.size:
            self._reject(path, f"it has {got:,} bytes, and should have {entry.size:,}")
        if zlib.crc32(target) != entry.crc:
            self._reject(path, "its bytes are not those that were packed (CRC)")
        return target

    def _content_start(self, path: str, entry: Entry) -> int:
        header = self._file.read(entry.offset, _LOCAL.size)
        if len(header) < _LOCAL.size or header[:4] != MAGIC[0]:
            self._reject(path, f"there is no member at byte {entry.offset}")
        *_, name, extra = _LOCAL.unpack(header)
        return int(entry.offset + _LOCAL.size + name + extra)

    def _inflate(self, path: str, entry: Entry, start: int, target: memoryview) -> int:
        """Unpack into a buffer, and never more than fits."""
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        at, read, stop = 0, start, start + entry.packed
        try:
            while read < stop and not inflate.eof:
                packed = self._file.read(read, min(_CHUNK_BYTES, stop - read))
                if not packed:
                    break
                read += len(packed)
                while packed and not inflate.eof:
                    # One byte more than is left shows that there is too much.
                    data = inflate.decompress(packed, len(target) - at + 1)
                    if len(data) > len(target) - at:
                        return at + len(data)
                    target[at : at + len(data)] = data
                    at += len(data)
                    packed = inflate.unconsumed_tail
        except zlib.error as error:
            self._reject(path, f"it cannot be unpacked ({error})")
        return at

    def _reject(self, path: str, what: str) -> NoReturn:
        reject_damaged(path, self._file.path, what)


class _Directory(NamedTuple):
    """Where the list of members lies."""

    start: int
    size: int
    members: int
    shift: int
    """Bytes before the archive, such as a program that unpacks it."""


def scan_zip(file: ArchiveFile) -> Iterator[tuple[str, Entry]]:
    """Members of an archive and where they lie, from its directory, in bounded memory.

    Raises:
        ConfigError: it is damaged, encrypted, or in several parts; the message names the byte.
    """
    directory = _find_directory(file)
    buffer, at = b"", directory.start
    stop = directory.start + directory.size
    for number in range(directory.members):
        # A member's fields and three texts of up to 64 KiB each.
        if len(buffer) < _MEMBER.size + 3 * 65536 and at < stop:
            more = file.read(at, min(_CHUNK_BYTES, stop - at))
            buffer, at = buffer + more, at + len(more) if more else stop
        if len(buffer) < _MEMBER.size or buffer[:4] != b"PK\x01\x02":
            refuse(
                file.path,
                at - len(buffer),
                f"member {number:,} of {directory.members:,} of the directory is missing",
            )
        (_, _, _, flags, method, _, _, crc, packed, size, *rest) = _MEMBER.unpack_from(buffer)
        name_size, extra_size, comment_size, _, _, _, offset = rest
        name = buffer[_MEMBER.size : _MEMBER.size + name_size]
        extra = buffer[_MEMBER.size + name_size : _MEMBER.size + name_size + extra_size]
        size, packed, offset = _large(extra, size, packed, offset)
        if not name.endswith(b"/"):
            if flags & _ENCRYPTED:
                raise ConfigError(
                    f"{file.path}: member {_text(name, flags)!r} is encrypted; unpack the archive "
                    "with its password, and give the folder"
                )
            place = Entry(offset + directory.shift, size, packed, crc, kind=method)
            if place.offset + packed > directory.start:
                refuse(file.path, place.offset, f"member {_text(name, flags)!r} is not all there")
            yield _text(name, flags), place
        buffer = buffer[_MEMBER.size + name_size + extra_size + comment_size :]


def _find_directory(file: ArchiveFile) -> _Directory:
    start = max(0, file.size - _END.size - 65535)
    tail = file.read(start, file.size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        refuse(file.path, file.size, "the archive's directory, at its end, is missing")
    end = start + at
    _, disk, _, here, members, size, offset, _ = _END.unpack_from(tail, at)
    stop = end
    place = file.read(max(0, end - _END64_PLACE.size), _END64_PLACE.size)
    if place[:4] == b"PK\x06\x07":
        stop = end - _END64_PLACE.size - _END64.size
        record = file.read(stop, _END64.size)
        if len(record) < _END64.size or record[:4] != b"PK\x06\x06":
            refuse(file.path, stop, "the large archive's directory, at its end, is missing")
        *_, disk, _, here, members, size, offset = _END64.unpack(record)
    if disk or here != members:
        raise ConfigError(
            f"{file.path}: is one of several parts; join them first: zip -s 0 IN --out OUT.zip"
        )
    shift = stop - size - offset
    if shift < 0:
        refuse(file.path, end, "the archive's directory does not lie before its end")
    return _Directory(offset + shift, size, members, shift)


def _large(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The same with the values of 64 bits that stand in the extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + length]
            words = iter(struct.unpack_from(f"<{len(body) // 8}Q", body))
            full = 0xFFFFFFFF
            size = next(words, size) if size == full else size
            packed = next(words, packed) if packed == full else packed
            offset = next(words, offset) if offset == full else offset
        at += 4 + length
    return size, packed, offset


def _text(name: bytes, flags: int) -> str:
    """A member's name: many programs write UTF-8 without saying so."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("utf-8" if flags & _UTF8 else "cp437", "surrogateescape")
