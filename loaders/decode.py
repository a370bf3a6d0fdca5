"""Image bytes become an RGB picture; one rule for every odd kind of image."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from ..errors import ImageError
from .png_exif import png_exif

FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "WEBP",
    "BMP",
    "TIFF",
    "AVIF",
    "PPM",
    "ICO",
    "JPEG2000",
)
"""Pillow's readers that may see the bytes. Others are rarely tested, or run programs (EPS).

MPO, a JPEG with more pictures behind the first, is read by the one for JPEG.
"""
DEFAULT_MAX_PIXELS = 89_478_485
"""Width x height; Pillow itself refuses more than twice this."""

_ORIENTATION_TAG, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 0x0100, 0x0101
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SAYS_HOW_IT_LIES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Pillow's names of what can hold an orientation."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow's name of few bits -> what one step of grey is of 255."""
_SIDEWAYS = (5, 6, 7, 8)
_SCAN, _APP1 = 0xDA, 0xE1
"""Markers of a JPEG: where the pixels begin, and a segment of EXIF or XMP."""


def decode_image(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image"
) -> Image.Image:
    """Decode an image into RGB, as a viewer on a white page would show it.

    - EXIF orientation: applied, so the picture stands upright. Unreadable EXIF counts as none.
    - Palette: looked up.
    - Transparency (alpha, or a transparent colour): laid over white.
    - CMYK and other colour spaces: Pillow's plain conversion; colour profiles are not applied.
    - 16 bits per channel: the upper 8 bits.
    - 32-bit integers and floats, which have no agreed white: stretched from their smallest to their
      largest finite value; what is not finite counts as the smallest.
    - Several frames or pages: the first.

    Args:
        data: the whole file.
        max_pixels: largest width x height; checked on the header, before anything is decoded.
        name: key or path, for messages.

    Returns:
        Picture in mode RGB, 8 bits per channel.

    Raises:
        ImageError: no image of a known format, over the limit, or damaged.
    """
    with _opened(data, name) as image:
        _check_pixels(image, max_pixels, name)
        # Pillow turns a TIFF itself while it loads it.
        orientation = None if image.format == "TIFF" else _orientation(image, data)
        picture = _to_rgb(image)
    return _turn(picture, orientation) if orientation else picture


def decode_array(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image"
) -> np.ndarray:
    """The pixels of `decode_image`, sooner for an upright JPEG of three colours.

    Such a JPEG is read by simplejpeg, whose libjpeg-turbo gives what Pillow's does; every other
    image, and a JPEG with damage of any kind, goes through `decode_image`.

    Returns:
        uint8[height, width, 3], or 4 where the fourth means nothing: four bytes a pixel are written
        and resized sooner.

    Raises:
        ImageError: as `decode_image`.
    """
    # Damage, which Pillow forgives or names, is a ValueError.
    with suppress(ValueError):
        if _is_plain_jpeg(data, max_pixels, name):
            pixels: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="RGBX")
            return pixels
    return np.array(decode_image(data, max_pixels=max_pixels, name=name))


def image_size(data: bytes, *, name: str = "image") -> tuple[int, int]:
    """Width and height of an image from its header, before any EXIF rotation.

    Raises:
        ImageError: no image of a known format, or a damaged header.
    """
    with _opened(data, name) as image:
        return stored_size(image)


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image as its file has them, before any EXIF rotation.

    Of a TIFF whose tags say that it lies on its side, Pillow tells the size of the upright picture.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    return image.size


def upright_size(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "image"
) -> tuple[int, int]:
    """Width and height of what `decode_image` gives; no pixel is decoded.

    Raises:
        ImageError: no image of a known format, over the limit, or a damaged header.
    """
    with _opened(data, name) as image:
        _check_pixels(image, max_pixels, name)
        width, height = stored_size(image)
        return (height, width) if _orientation(image, data) in _SIDEWAYS else (width, height)


def check_image(data: bytes, *, name: str = "image") -> None:
    """Look for damage as closely as the format allows: checksums, then all pixels.

    Raises:
        ImageError: there is damage.
    """
    with _opened(data, name) as image:
        image.verify()
    decode_image(data, name=name)


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """An image whose header is read; whatever Pillow raises on it becomes an ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}; shrink it", reason="too_many_pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: is no image of a known format; it begins with {data[:12]!r}; replace it",
            reason="not_an_image",
        ) from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files.
        finding = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ImageError(
            f"{name}: cannot be decoded: {finding}; replace the image", reason="corrupt_image"
        ) from error


def _is_plain_jpeg(data: bytes, max_pixels: int, name: str) -> bool:
    """Whether it is an upright JPEG of three colours and no more than `max_pixels`."""
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    if colors not in ("YCbCr", "RGB") or width * height > max_pixels:
        return False
    if not _may_be_turned(data):
        return True
    with _opened(data, name) as image:
        return _orientation(image, data) is None


def _may_be_turned(data: bytes) -> bool:
    """Whether a JPEG has a segment that can hold an orientation: EXIF or XMP, both of them APP1."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SCAN:
            return False
        if marker == _APP1:
            return True
        at += 2 + length
    # Not a plain row of segments.
    return True


def _check_pixels(image: Image.Image, max_pixels: int, name: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: is {width} x {height} pixels, more than the limit of {max_pixels:,}; "
            "shrink the image, or raise max_pixels if you trust it",
            reason="too_many_pixels",
        )


def _orientation(image: Image.Image, data: bytes) -> int | None:
    """One that an image is to be turned by; None where it stands upright or does not say."""
    try:
        is_png = isinstance(image, PngImagePlugin.PngImageFile)
        exif = png_exif(image, data) if is_png else image.getexif()
        orientation = exif.get(_ORIENTATION_TAG)
        return orientation if orientation in _UPRIGHT else None
    except Exception:  # Damaged EXIF raises nearly anything, and the pixels do not depend on it.
        return None


def _turn(picture: Image.Image, orientation: int) -> Image.Image:
    upright = picture.transpose(_UPRIGHT[orientation])
    # What said how it lay would have the next reader turn it once more.
    for name in _SAYS_HOW_IT_LIES:
        upright.info.pop(name, None)
    return upright


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        upper = (values >> 8).astype(np.uint8)
        # Compared in all bits: others of its upper 8 are not transparent.
        if isinstance(level := image.info.get("transparency"), int):
            upper[values == level] = 255
        return Image.fromarray(upper).convert("RGB")
    if image.mode in ("I", "F"):
        return _stretch(np.asarray(image).astype(np.float64)).convert("RGB")
    if image.has_transparency_data:
        _spread_transparent_level(image)
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode == "RGB":
        # As it is: `convert` would copy it, which takes a quarter as long as decoding it.
        image.load()
        return image
    return image.convert("RGB")


def _spread_transparent_level(image: Image.Image) -> None:
    """Bring the transparent grey of 2 or 4 bits to 8, as Pillow brings the pixels, and only them.

    The image must not be loaded: then it no longer tells its bits.
    """
    bits = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
    level = image.info.get("transparency")
    if isinstance(bits, str) and bits in _GREY_STEPS and isinstance(level, int):
        image.info["transparency"] = level * _GREY_STEPS[bits]


def _stretch(values: np.ndarray) -> Image.Image:
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = (np.where(finite, values, low) - low) / ((high - low) or 1.0) * 255
    return Image.fromarray(scaled.round().astype(np.uint8))
