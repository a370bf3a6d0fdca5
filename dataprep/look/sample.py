"""A sample to look at: its turns and images, whatever type it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ImageError
from ...loaders.format import IMAGE_PLACEHOLDER
from ...loaders.image_header import PIXEL_LIMIT, read_header
from .view import ImageView, Turn

_FORMATS = {"jpg": "jpeg", "tif": "tiff"}
SHOWN_FIELDS = frozenset(("id", "conversations", "images"))
"""Fields of a record that a sample's turns and images show."""


def turns_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """Messages of either dialect as turns; images that are parts become placeholders."""
    return tuple(
        Turn(
            role=str(message.get("role", message.get("from", ""))),
            text=_text(message["content"] if "content" in message else message.get("value")),
        )
        for message in messages
    )


def view_image(
    data: bytes | None, *, name: str, source: str, offset: int | None = None
) -> ImageView:
    """An image with what its header says, or why it cannot be shown.

    Args:
        data: the file; None where the folder of a source's images is not known.
        name: of the member, or the path as the record has it.
        source: path as the record has it.
        offset: where it begins in the shard.
    """
    width, height, kind, error = 0, 0, "", None
    if data is None:
        error = f"{name}: give the folder of the images (--images) to see it"
    else:
        try:
            header = read_header(data, pixel_limit=PIXEL_LIMIT)
            width, height = header.width, header.height
            kind = _FORMATS.get(header.extension, header.extension)
        except ImageError as fault:
            error = f"{name}: {fault}"
    return ImageView(
        name=name,
        source=source,
        width=width,
        height=height,
        format=kind,
        num_bytes=len(data or b""),
        data=data,
        error=error,
        offset=offset,
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        return "".join(map(_part_text, content))
    return "" if content is None else str(content)


def _part_text(part: Any) -> str:
    if not isinstance(part, Mapping):
        return str(part)
    text = part.get("text", part.get("content"))
    return text if isinstance(text, str) else IMAGE_PLACEHOLDER
