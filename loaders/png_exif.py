"""EXIF of a PNG, wherever it stands in the file, without decoding a pixel.

Pillow's own getexif decodes the whole picture to come to what may stand behind it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import Image

_SIGNATURE_BYTES = 8
_PIXELS = b"IDAT"
_WITH_EXIF = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
"""Chunks that can say how a picture lies: EXIF itself, or a text that holds it, or XMP."""


def png_exif(image: Image.Image, data: bytes) -> Image.Exif:
    """EXIF from before the pixels; if there is none, from what stands behind them, too.

    Args:
        image: a PNG, opened and not loaded.
        data: its file.
    """
    # The method of PngImageFile would load.
    exif = Image.Image.getexif
    if "exif" in image.info:
        return exif(image)
    pixels, late = _chunks_with_exif(data)
    if not late:
        return exif(image)
    # All of them before the pixels, of which only the beginning is there.
    header = data[:pixels] + late + data[pixels : pixels + 8]
    with Image.open(io.BytesIO(header), formats=["PNG"]) as moved:
        return exif(moved)


def _chunks_with_exif(data: bytes) -> tuple[int, bytes]:
    """Where the pixels begin, and the chunks behind them that can hold EXIF."""
    pixels, late = 0, []
    for kind, start, end in _chunks(data):
        if kind == _PIXELS:
            pixels = pixels or start
        elif pixels and kind in _WITH_EXIF:
            late.append(data[start:end])
    return pixels, b"".join(late)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of each whole chunk."""
    at = _SIGNATURE_BYTES
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        yield kind, at, end
        at = end
