"""What convert would say of one record, told before it is converted."""

from __future__ import annotations

import os
from typing import Any

from ...errors import ImageError, NevaPrepError, RecordError
from ..check import check_placeholders, check_turns
from ..folder import ImageFolder
from ..image import decode_fully, read_header
from ..look.record import read_image
from ..options import ConvertOptions
from ..readers.llava import read_llava


def first_fault(raw: bytes, folder: ImageFolder, options: ConvertOptions) -> NevaPrepError | None:
    """The first thing that convert would reject a record for; None where it would take it."""
    try:
        record = read_llava(raw)
        check_placeholders(record, check_turns(record.turns), insert=False)
        for path in record.images:
            _check_image(path, folder, options)
    except (RecordError, ImageError) as error:
        return error
    return None


def image_paths(record: dict[str, Any]) -> list[str]:
    """Image paths of a record that may be broken elsewhere."""
    paths = record.get("image") if record.get("image") is not None else record.get("images")
    return [
        path for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str)
    ]


def is_found(path: str, folder: ImageFolder) -> bool:
    """Whether a path leads to a file of the folder."""
    try:
        os.close(folder.open(path)[0])
    except ImageError:
        return False
    return True


def _check_image(path: str, folder: ImageFolder, options: ConvertOptions) -> None:
    content = read_image(folder, path)
    try:
        read_header(content, pixel_limit=options.pixel_limit)
        if options.check == "decode":
            decode_fully(content)
    except ImageError as error:
        raise ImageError(f"image {path!r} {error}", reason=error.reason) from error
