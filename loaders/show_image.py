"""An image as HTML, small, for notebooks."""

from __future__ import annotations

import base64
import io

from ..errors import ImageError
from ..templates.show_html import safe
from .decode import decode_image

_EDGE = 200
"""Pixels of the longer edge."""
_MAX_PIXELS = 40_000_000


def image_html(data: bytes) -> str:
    """A thumbnail within the page, or why there is none."""
    try:
        picture = decode_image(data, max_pixels=_MAX_PIXELS)
    except ImageError as error:
        return f"<p>{safe(error)}</p>"
    width, height = picture.size
    picture.thumbnail((_EDGE, _EDGE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    inline = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{inline}" title="{width} x {height}"> '
