"""What an image file is, from its bytes: format, size in pixels, whether its end is there."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from ..errors import ImageError

Bytes = bytes | bytearray | memoryview

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
_NO_SIZE = frozenset((0xD8, 0x01, *range(0xD0, 0xD8)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_stderr_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Header:
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
        header = _pillow_header(data)
    if header.width * header.height > pixel_limit:
        _reject(
            "too_many_pixels",
            f"is {header.width} x {header.height} pixels, more than the limit of {pixel_limit:,}",
        )
    _check_end(data, header.extension)
    return header


def decode_fully(data: Bytes) -> None:
    """Decode an image to see that all of it can be read.

    Raises:
        ImageError: it cannot.
    """
    from PIL import Image

    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=_READERS) as image:
            image.load()
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files.
        _reject("corrupt_image", f"cannot be decoded: {_one_line(error)}")


def _jpeg_header(data: Bytes) -> Header | None:
    """Walk the JPEG markers to the frame header; None where the walk loses its way."""
    at, size = 2, len(data)
    while at + 9 < size:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _FRAMES:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            # Height 0 means that it follows the scan; Pillow judges such a file.
            return Header("jpg", width, height) if width and height else None
        else:
            at += 2 if marker in _NO_SIZE else 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _png_header(data: Bytes) -> Header | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return Header("png", width, height) if width and height else None


def _pillow_header(data: Bytes) -> Header:
    from PIL import Image, UnidentifiedImageError

    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=_READERS) as image:
            return Header(EXTENSIONS[str(image.format)], *image.size)
    except UnidentifiedImageError:
        reason = "truncated_image" if _begins_like_an_image(data) else "not_an_image"
        _reject(reason, f"is no image of a known format; it begins with {bytes(data[:12])!r}")
    except Image.DecompressionBombError as error:
        _reject("too_many_pixels", _one_line(error))
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files.
        _reject("corrupt_image", f"has a header that cannot be read: {_one_line(error)}")


def _begins_like_an_image(data: Bytes) -> bool:
    return bytes(data[:3]) in (b"\xff\xd8\xff", b"\x89PN", b"GIF")


def _check_end(data: Bytes, extension: str) -> None:
    """See that the file's end is there, where its format has a mark for it.

    A JPEG's end mark is searched from the end, since cameras and editors append data behind it. In
    its scan FF D9 cannot occur; in an EXIF thumbnail before the scan it can.
    """
    if extension == "jpg":
        whole = data[-2:] == b"\xff\xd9" or _ends_after_scan(bytes(data))
    elif extension == "png":
        whole = data[-8:-4] == b"IEND" or b"IEND" in bytes(data)
    elif extension == "gif":
        whole = data[-1:] == b";" or b";" in bytes(data[-64:])
    elif extension == "webp":
        whole = int.from_bytes(data[4:8], "little") + 8 <= len(data)
    else:
        return
    if not whole:
        _reject("truncated_image", f"stops after {len(data):,} bytes: its end is missing")


def _ends_after_scan(data: bytes) -> bool:
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") >= 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and what C libraries print (libtiff) from the user's terminal."""
    with _stderr_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
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
