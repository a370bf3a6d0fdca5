"""Images as records give them: a path, an address, an object, or the image itself as base64."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, NamedTuple

import xxhash

from ...errors import ImageError, RecordError
from ...loaders.image_header import read_header

_DATA_URI = re.compile(r"data:(?:image/([A-Za-z0-9.+-]{1,32}))?[^,]{0,100};base64,", re.IGNORECASE)
_BASE64_BEGINS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")
"""Of a JPEG, PNG, GIF and WebP; a path so long and with such a begin is none."""
_MIN_BASE64 = 256
_BYTES = ("bytes", "data", "base64")
_WITHIN = (
    "image_url", "source", "url", "path", "image", "image_path", "file_name", "filename", "value"
)  # fmt: skip
_MOST_PIXELS = 1 << 62


class Picture(NamedTuple):
    """An image of a record."""

    path: str
    """Path or address as the record gives it; of an embedded one a short name, by its content."""
    content: bytes | None = None
    """The image itself, where the record holds it."""


def picture_of(value: Any, where: str) -> Picture | None:
    """The image that a value stands for; None of one that says nothing.

    Args:
        value: a string, or an object such as `{"url": ...}`, `{"path": ...}`, `{"bytes": ...}`.
        where: names the value, for messages.

    Raises:
        RecordError: it is no image (`bad_image_field`), or not base64 (`bad_embedded_image`).
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _of_text(value, where)
    if not isinstance(value, dict):
        raise RecordError(f"{where} is neither a path nor an image", reason="bad_image_field")
    for name in _BYTES:
        if isinstance(value.get(name), str):
            return _embedded(value[name], where, str(value.get("media_type", "")))
        if value.get(name) is not None:
            raise RecordError(
                f"{where}: '{name}' is not a text in base64", reason="bad_embedded_image"
            )
    for name in _WITHIN:
        if value.get(name) is not None:
            return picture_of(value[name], where)
    return None


def _of_text(value: str, where: str) -> Picture:
    match = _DATA_URI.match(value)
    if match:
        return _embedded(value[match.end() :], where, match[1] or "")
    if len(value) >= _MIN_BASE64 and value.startswith(_BASE64_BEGINS):
        return _embedded(value, where, "")
    return Picture(value)


def _embedded(text: str, where: str, kind: str) -> Picture:
    match = _DATA_URI.match(text)
    try:
        content = base64.b64decode(text[match.end() if match else 0 :], validate=False)
    except (binascii.Error, ValueError) as error:
        raise RecordError(
            f"{where} is no image in base64: {error}", reason="bad_embedded_image"
        ) from error
    try:
        extension = read_header(content, pixel_limit=_MOST_PIXELS).extension
    except ImageError:
        # It is rejected where images are judged; till then it needs a name.
        extension = re.sub(r"[^a-z0-9]", "", kind.rpartition("/")[2].lower()) or "bin"
    return Picture(f"embedded:{xxhash.xxh3_64_hexdigest(content)}.{extension}", content)
