"""Smaller images, where the user asks for them: fewer pixels, or another encoding.

An image that already is as small as asked keeps its very bytes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ..errors import ImageError
from .options import ConvertOptions, Encoding, parse_encoding

if TYPE_CHECKING:
    from PIL import Image

    from ..loaders.image_header import Bytes, Header

_FULL_COLOR_QUALITY = 90
"""Of a JPEG whose colors are not halved: text and thin lines suffer most from that."""
_LONGEST_EDGE = {"jpg": 65_500, "webp": 16_383}
"""Pixels that an encoding can hold; beyond that it is PNG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrinking:
    """What images are to become."""

    shorter_edge: int | None = None
    """At most so many pixels: whether a loader cuts or pads, it needs no more than its own size."""
    max_pixels: int | None = None
    """Width x height."""
    encoding: Encoding | None = None
    """Of every image that gets smaller by it; None keeps JPEG and WebP, others become PNG."""
    pixel_limit: int
    """What may be decoded at all."""


class Smaller(NamedTuple):
    """An image that was changed."""

    content: bytes
    header: Header


def shrinking_of(options: ConvertOptions) -> Shrinking | None:
    """What the options ask for, or None where images stay as they are."""
    if options.resize is None and options.max_pixels is None and options.reencode is None:
        return None
    return Shrinking(
        shorter_edge=options.resize,
        max_pixels=options.max_pixels,
        encoding=parse_encoding(options.reencode) if options.reencode else None,
        pixel_limit=options.pixel_limit,
    )


def shrink(content: Bytes, header: Header, wanted: Shrinking) -> Smaller | None:
    """Make an image smaller.

    It is decoded as the loaders decode it (upright, RGB, transparency over white, the first frame),
    so that a changed image looks to them as before, only smaller. Metadata and color profiles go.

    Args:
        content: the file.
        header: what `read_header` says of it.
        wanted: what it is to become.

    Returns:
        None where it stays as it is: small enough already, and no smaller when encoded anew.

    Raises:
        ImageError: it must be decoded and cannot be; the message lacks the path.
    """
    from PIL import Image

    if not _is_decoded(header, wanted):
        return None
    size = target_size(header.width, header.height, wanted)
    must_shrink = size != (header.width, header.height)
    picture = _decode(content, wanted.pixel_limit)
    if must_shrink:
        # Upright by now: by EXIF its width may be what the header calls height.
        size = target_size(*picture.size, wanted)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    encoding = _encoding_for(picture.size, header.extension, wanted.encoding)
    encoded = _encode(picture, encoding)
    if not must_shrink and len(encoded) >= len(content):
        return None
    return Smaller(encoded, replace(header, extension=encoding.extension, **_sides(picture)))


def refuse_damaged(content: Bytes, header: Header, wanted: Shrinking) -> None:
    """Refuse an image as `shrink` does, without making it smaller.

    Raises:
        ImageError: it must be decoded and cannot be; the message lacks the path.
    """
    if _is_decoded(header, wanted):
        _decode(content, wanted.pixel_limit)


def _is_decoded(header: Header, wanted: Shrinking) -> bool:
    """Whether an image is looked at pixel by pixel: it is too large, or may get smaller."""
    size = header.width, header.height
    return header.width > 0 and (wanted.encoding is not None or target_size(*size, wanted) != size)


def target_size(width: int, height: int, wanted: Shrinking) -> tuple[int, int]:
    """Width and height that an image is to have: its own, or smaller ones of the same shape.

    Example:
        >>> target_size(640, 480, Shrinking(shorter_edge=336, pixel_limit=10**6))
        (448, 336)
        >>> target_size(640, 480, Shrinking(max_pixels=100_000, pixel_limit=10**6))
        (365, 273)
    """
    shorter = min(width, height)
    if wanted.shorter_edge is not None and shorter > wanted.shorter_edge:
        width = round(width * wanted.shorter_edge / shorter)
        height = round(height * wanted.shorter_edge / shorter)
    most = wanted.max_pixels
    if most is not None and width * height > most:
        # In whole numbers, and downwards: the product must not exceed the limit.
        new_width = max(1, isqrt(most * width // height))
        new_height = max(1, min(isqrt(most * height // width), most // new_width))
        width, height = min(new_width, most // new_height), new_height
    return width, height


def _decode(content: Bytes, pixel_limit: int) -> Image.Image:
    from PIL import Image

    from ..loaders.decode import FORMATS, decode_image
    from ..loaders.image_header import no_stderr

    data = bytes(content)
    with no_stderr():
        try:
            picture = decode_image(data, max_pixels=pixel_limit, name="")
        except ImageError as error:
            what = str(error).removeprefix(": ").rpartition("; ")[0]
            raise ImageError(what, reason=error.reason) from error
        try:
            # What is changed cannot be looked at again: damage that Pillow forgives must show now.
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.verify()
        except Exception as error:  # Pillow's readers raise nearly anything on damaged files.
            what = f"is damaged: {' '.join(str(error).split())[:200]}"
            raise ImageError(what, reason="corrupt_image") from error
    return picture


def _encoding_for(size: tuple[int, int], extension: str, wanted: Encoding | None) -> Encoding:
    lossy = extension in ("jpg", "webp")
    encoding = wanted or (Encoding(extension) if lossy else Encoding("png"))
    longest = _LONGEST_EDGE.get(encoding.extension, max(size))
    return encoding if max(size) <= longest else Encoding("png")


def _encode(picture: Image.Image, encoding: Encoding) -> bytes:
    file = io.BytesIO()
    if encoding.extension == "png":
        picture.save(file, "PNG", compress_level=6)
    elif encoding.extension == "webp":
        picture.save(file, "WEBP", quality=encoding.quality, method=4)
    else:
        subsampling = 0 if encoding.quality >= _FULL_COLOR_QUALITY else 2
        picture.save(file, "JPEG", quality=encoding.quality, subsampling=subsampling)
    return file.getvalue()


def _sides(picture: Image.Image) -> dict[str, int]:
    return {"width": picture.width, "height": picture.height}
