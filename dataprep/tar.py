"""Tar headers, packed by hand: the same bytes for the same member, on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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


_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)
"""Where the digits of these numbers stand."""
_BLANK = np.frombuffer(_blank(), np.uint8)
_BLANK_SUM = _BLANK.sum(dtype=np.uint32)


def write_headers(
    blocks: np.ndarray, at: Sequence[int], names: Sequence[str], sizes: Sequence[int]
) -> None:
    """Put the headers of members into a buffer, many at once.

    Args:
        blocks: `uint8[n, 512]`, the buffer.
        at: which of its blocks become headers.
        names: ASCII, at most 100 characters each.
        sizes: bytes of the contents, below 8 GiB each.
    """
    assert max(map(len, names)) <= MAX_NAME_BYTES and max(sizes) < 1 << 33
    text = np.array(names, "S")
    varying = [text.view(np.uint8).reshape(len(names), -1), _octal(np.array(sizes), _SIZE)]
    checksums = sum(part.sum(axis=1, dtype=np.uint32) for part in varying) + _BLANK_SUM
    headers = np.tile(_BLANK, (len(names), 1))
    headers[:, : text.itemsize] = varying[0]
    headers[:, _SIZE] = varying[1]
    headers[:, _CHECKSUM] = _octal(checksums, _CHECKSUM)
    headers[:, _CHECKSUM.stop] = 0
    blocks[at] = headers


def _octal(numbers: np.ndarray, place: slice) -> np.ndarray:
    """int64[n] as the digits of a place in headers, uint8[n, digits]."""
    shifts = np.arange(3 * (place.stop - place.start - 1), -1, -3)
    return (numbers[:, None] >> shifts & 7).astype(np.uint8) + np.uint8(ord("0"))


def padding(size: int) -> int:
    """Zero bytes that follow content of a size, to the end of its block."""
    return -size % BLOCK_BYTES


def archive_end(offset: int) -> bytes:
    """What closes a tar whose last member ends at an offset: two zero blocks, then fill."""
    return bytes(2 * BLOCK_BYTES + -(offset + 2 * BLOCK_BYTES) % RECORD_BYTES)
