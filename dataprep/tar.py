"""Tar headers, packed by hand: the same bytes for the same member, on every machine."""

from __future__ import annotations

from zlib import adler32

BLOCK_BYTES = 512
RECORD_BYTES = 10_240
"""A tar's size is a multiple of this, as tar(1) and tarfile make it."""
MAX_NAME_BYTES = 100


_OWNER = b"0000644\0" + 2 * b"0000000\0"
"""What stands between name and size: mode 0644, owner 0, group 0."""
_TIME = b"\0" + b"00000000000\0"
"""What stands between size and checksum: time 0."""
# Behind the checksum: a plain file, no link.
_REST = b"".join((b"0", bytes(100), b"ustar\x0000")).ljust(BLOCK_BYTES - 156, b"\0")
# Where the checksum goes, spaces are summed.
_CONSTANT_SUM = sum(_TIME + 8 * b" " + _REST)


def write_header(room: memoryview, name: str, size: int) -> None:
    """Put the header of a member where it goes.

    Args:
        room: `uint8[512]`.
        name: ASCII, at most 100 characters.
        size: bytes of the content, below 8 GiB.

    Raises:
        ValueError: name or size have no room in a header.
    """
    begin = b"%b%b%011o" % (name.encode("ascii").ljust(MAX_NAME_BYTES, b"\0"), _OWNER, size)
    # The lower half of Adler-32 is the sum of all bytes and 1, modulo 65,521; these have less.
    checksum = (adler32(begin) & 0xFFFF) - 1 + _CONSTANT_SUM
    room[:] = b"%b%b%06o\0 %b" % (begin, _TIME, checksum, _REST)


def padding(size: int) -> int:
    """Zero bytes that follow content of a size, to the end of its block."""
    return -size % BLOCK_BYTES


def archive_end(offset: int) -> bytes:
    """What closes a tar whose last member ends at an offset: two zero blocks, then fill."""
    return bytes(2 * BLOCK_BYTES + -(offset + 2 * BLOCK_BYTES) % RECORD_BYTES)
