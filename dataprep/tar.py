"""Tar headers, packed by hand: the same bytes for the same member, on every machine."""

from __future__ import annotations

import mmap
import struct

BLOCK_BYTES = 512
RECORD_BYTES = 10_240
"""A tar's size is a multiple of this, as tar(1) and tarfile make it."""
MAX_NAME_BYTES = 100


def _blank() -> bytes:
    """A ustar header of a plain file, mode 0644, owner 0, time 0; no name, size, checksum."""
    header = bytearray(BLOCK_BYTES)
    header[100:108] = b"0000644\0"
    header[108:116] = header[116:124] = b"0000000\0"
    header[136:148] = b"00000000000\0"
    # The checksum is summed with spaces in its own place.
    header[148:156] = b" " * 8
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    return bytes(header)


_BLANK = _blank()
_BLANK_SUM = sum(_BLANK)
_HEADER = struct.Struct("100s24s12s12s8s356s")
_OWNER, _TIME, _REST = _BLANK[100:124], _BLANK[136:148], _BLANK[156:]


def write_header(buffer: bytearray | mmap.mmap, at: int, name: str, size: int) -> None:
    """Put the header of one member into a buffer.

    Args:
        buffer: gets 512 bytes.
        at: where.
        name: ASCII, at most 100 characters.
        size: bytes of the content, below 8 GiB.
    """
    encoded = name.encode("ascii")
    length = b"%011o\0" % size
    assert len(encoded) <= MAX_NAME_BYTES and len(length) == 12
    checksum = b"%06o\0 " % (_BLANK_SUM + sum(encoded + length))
    _HEADER.pack_into(buffer, at, encoded, _OWNER, length, _TIME, checksum, _REST)


def padding(size: int) -> int:
    """Zero bytes that follow content of a size, to the end of its block."""
    return -size % BLOCK_BYTES


def archive_end(offset: int) -> bytes:
    """What closes a tar whose last member ends at an offset: two zero blocks, then fill."""
    return bytes(2 * BLOCK_BYTES + -(offset + 2 * BLOCK_BYTES) % RECORD_BYTES)
