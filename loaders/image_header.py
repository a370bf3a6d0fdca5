"""What an image file is, from its bytes: format, size in pixels, whether its end is there."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import msgspec

from ..errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

Bytes = bytes | bytearray | memoryview
PIXEL_LIMIT = 89_478_485
"""Width x height that is let through unless another limit is given."""

# Pillow's name -> member extension. What Pillow reads beyond these is refused: some of its readers
# run other programs (EPS) or are rarely tested.
EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
    "PPM": "ppm",
    "ICO": "ico",
    "JPEG2000": "jp2",
}
# A JPEG of several pictures (MPO) is opened by the reader of JPEG.
_READERS = [name for name in EXTENSIONS if name != "MPO"]
SAME_EXTENSION = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "mpo": "jpg", "tiff": "tif"}
SAME_EXTENSION |= {"pgm": "ppm", "pbm": "ppm", "pnm": "ppm", "j2k": "jp2", "apng": "png"}
_segment = struct.Struct(">BBH").unpack_from
_frame_size = struct.Struct(">HH").unpack_from
_NO_SIZE = frozenset((0xD8, 0x01, *range(0xD0, 0xD8)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Inside a scan FF stands before 00, or in a restart mark; repeated it only fills.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE = 0xD9
_process_lock = threading.Lock()


class Header(msgspec.Struct, frozen=True):
    """What an image says of itself."""

    extension: str
    """Of the member: what the bytes are."""
    width: int
    height: int


def read_header(data: Bytes, *, pixel_limit: int) -> Header:
    """Recognize an image by content.

    Args:
        data: the whole file.
        pixel_limit: largest width x height that is let through; nothing is decoded before.

    Raises:
        ImageError: with the reason; the message lacks the path, which the caller knows.
    """
    if len(data) == 0:
        _reject("empty_image", "has no bytes")
    header = _jpeg_header(data) if data[:2] == b"\xff\xd8" else _png_header(data)
    if header is None:
        header = _pillow_header(data, pixel_limit)
    if header.width * header.height > pixel_limit:
        _reject(
            "too_many_pixels",
            f"is {header.width} x {header.height} pixels, more than the limit of {pixel_limit:,}",
        )
    _check_end(data, header.extension)
    return header


def decode_fully(data: Bytes) -> None:
    """Decode an image to see that all of it can be read.

    Args:
        data: the whole file; `read_header` has let its size in pixels pass.

    Raises:
        ImageError: it cannot.
    """
    try:
        with _opened(data, None) as image:
            # What the header does not tell, such as the pictures in an ICO, has the usual limit.
            _limit_pixels(max(image.width * image.height, PIXEL_LIMIT))
            image.load()
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files.
        _reject("corrupt_image", f"cannot be decoded: {_one_line(error)}")


def _jpeg_header(data: Bytes) -> Header | None:
    """Walk the JPEG markers to the frame header; None where the walk loses its way."""
    at, end = 2, len(data) - 9
    while at < end:
        escape, marker, length = _segment(data, at)
        if escape != 0xFF:
            return None
        if marker == 0xFF:
            at += 1
        elif marker in _FRAMES:
            height, width = _frame_size(data, at + 5)
            # Height 0 means that it follows the scan; Pillow judges such a file.
            return Header("jpg", width, height) if width and height else None
        else:
            at += 2 if marker in _NO_SIZE else 2 + length
    return None


def _png_header(data: Bytes) -> Header | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return Header("png", width, height) if width and height else None


def _pillow_header(data: Bytes, pixel_limit: int) -> Header:
    from PIL import Image, UnidentifiedImageError

    from .decode import stored_size

    try:
        with _opened(data, pixel_limit) as image:
            return Header(EXTENSIONS[str(image.format)], *stored_size(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        _reject("too_many_pixels", f"is too large: {_one_line(error)}")
    except UnidentifiedImageError:
        _reject_unreadable(data, f"it begins with {bytes(data[:12])!r}")
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files.
        _reject_unreadable(data, _one_line(error))


def _reject_unreadable(data: Bytes, why: str) -> NoReturn:
    """Tell what was cut off from what is damaged, and both from what is no image."""
    extension = _claimed_extension(bytes(data[:12]))
    if not extension:
        _reject("not_an_image", f"is no image of a known format: {why}")
    _check_end(data, extension)
    _reject("corrupt_image", f"has a header that cannot be read: {why}")


def _claimed_extension(begin: bytes) -> str:
    """What the first bytes claim to be; they may be all that is right."""
    if begin[:4] == b"RIFF" and begin[8:] in b"WEBP":
        return "webp"
    if begin[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    begins = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}
    begins |= {b"II*\0": "tif", b"MM\0*": "tif"}
    return next((name for magic, name in begins.items() if begin.startswith(magic)), "")


def _check_end(data: Bytes, extension: str) -> None:
    """See that the file's end is there, where its format has a mark for it.

    The mark need not be the last: cameras and editors append data of their own behind it.
    """
    if extension == "jpg":
        whole = data[-2:] == b"\xff\xd9" or _jpeg_ends(data)
    elif extension == "png":
        whole = data[-8:-4] == b"IEND" or b"IEND" in bytes(data)
    elif extension == "gif":
        whole = _gif_ends(data)
    elif extension == "webp":
        whole = _webp_ends(data)
    else:
        return
    if not whole:
        _reject("truncated_image", f"stops after {len(data):,} bytes: its end is missing")


def _jpeg_ends(data: Bytes) -> bool:
    """Walk from marker to marker; the end mark of a thumbnail lies inside a segment."""
    at = 2
    while match := _MARKER.search(data, at):
        marker, at = data[match.end() - 1], match.end()
        if marker == _END_OF_IMAGE:
            return True
        if marker not in _NO_SIZE:
            at += int.from_bytes(data[at : at + 2], "big")
    return False


def _gif_ends(data: Bytes) -> bool:
    """Walk from block to block. Some writers leave out the trailer, and viewers do not miss it."""
    size, pictures = len(data), 0
    at = 13 + _color_bytes(data[10]) if size > 13 else size
    while at < size and data[at] != ord(";"):
        if data[at] == ord(","):
            if at + 10 > size:
                return False
            at, pictures = at + 11 + _color_bytes(data[at + 9]), pictures + 1
        elif data[at] == ord("!"):
            at += 2
        else:
            at += 1
            continue
        while at < size and data[at]:
            at += data[at] + 1
        if at >= size:
            return False
        at += 1
    return at < size or pictures > 0


def _color_bytes(flags: int) -> int:
    """Size of a GIF's color table."""
    return 6 << (flags & 7) if flags & 0x80 else 0


def _webp_ends(data: Bytes) -> bool:
    return int.from_bytes(data[4:8], "little") + 8 <= len(data)


@contextmanager
def _opened(data: Bytes, pixel_limit: int | None) -> Iterator[Image.Image]:
    """An image opened by Pillow, which refuses more pixels than the limit."""
    from PIL import Image

    with _process_lock, warnings.catch_warnings(), no_stderr():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        try:
            _limit_pixels(pixel_limit)
            with Image.open(io.BytesIO(data), formats=_READERS) as image:
                yield image
        finally:
            _limit_pixels(before)


def _limit_pixels(limit: int | None) -> None:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def no_stderr() -> Iterator[None]:
    """For the while, nothing that C libraries print (libtiff) reaches the user's terminal."""
    try:
        kept = os.dup(2)
    except OSError:  # The user closed it.
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


def _reject(reason: str, message: str) -> NoReturn:
    raise ImageError(message, reason=reason)
