"""What convert would say of one record, told before it is converted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ...errors import ImageError, NevaPrepError, RecordError
from ...loaders.image_folder import ImageFolder
from ...loaders.record_fields import IMAGES
from ..look.record import check_record
from ..options import ConvertOptions
from ..readers.form import ReadRecord
from ..stores.embedded import WithEmbedded


def first_fault(
    raw: bytes, read: ReadRecord, folder: ImageFolder, options: ConvertOptions
) -> NevaPrepError | None:
    """The first thing that convert would reject a record for; None where it would take it."""
    decode = options.check == "decode"
    try:
        store = WithEmbedded(folder)
        check_record(raw, store, read, pixel_limit=options.pixel_limit, decode=decode)
    except (RecordError, ImageError) as error:
        return error
    return None


def image_field(record: dict[str, Any]) -> str:
    """Field that holds the images of a record that may be broken elsewhere."""
    return next((name for name in IMAGES if record.get(name) is not None), "image")


def image_paths(record: dict[str, Any]) -> list[str]:
    """Image paths of such a record."""
    return _paths(record.get(image_field(record)))


def every_image_path(record: dict[str, Any]) -> Iterator[str]:
    """Image paths of such a record in all fields that can hold them."""
    for name in IMAGES:
        yield from _paths(record.get(name))


def _paths(given: Any) -> list[str]:
    return [
        path for path in (given if isinstance(given, list) else [given]) if isinstance(path, str)
    ]


def is_found(path: str, folder: ImageFolder) -> bool:
    """Whether a path leads to a file of the folder."""
    try:
        os.close(folder.open(path)[0])
    except ImageError:
        return False
    return True
