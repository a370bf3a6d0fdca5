"""Fields of energon's sample types, held against what they must be: they come as the JSON has them.

energon names types for its fields and checks none, so a null or a text can stand anywhere. Each
function here gives the field, or names the sample and the field in a RecordError.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import RecordError


def bad_sample(key: str, finding: str, way_out: str) -> RecordError:
    """What is raised for a sample that cannot be used."""
    return RecordError(f"sample {key}: {finding}; {way_out}", reason="bad_sample")


def to_list(key: str, field: str, value: Any) -> list[Any]:
    """The items of a list, tuple, array or tensor.

    Raises:
        RecordError: it is something else.
    """
    has_rows = isinstance(value, np.ndarray | torch.Tensor) and value.ndim > 0
    if has_rows or (isinstance(value, Sequence) and not isinstance(value, str | bytes)):
        return list(value)
    raise bad_sample(key, f"its {field} is {_kind(value)}", "make it a list")


def optional_list(key: str, field: str, value: Any) -> list[Any]:
    """The same, and no items where there is no field.

    Raises:
        RecordError: it is something else.
    """
    return [] if value is None else to_list(key, field, value)


def to_text(key: str, field: str, value: Any) -> str:
    """A text.

    Raises:
        RecordError: it is something else.
    """
    if isinstance(value, str):
        return value
    raise bad_sample(key, f"its {field} is {_kind(value)}", "make it a text")


def to_texts(key: str, field: str, value: Any, *, numbers: bool = False) -> list[str]:
    """The texts of a list.

    Args:
        key: of the sample.
        field: name of the field.
        value: of the field.
        numbers: whether an item may be a number, which becomes a text.

    Raises:
        RecordError: it is no list, or an item is something else.
    """
    items = to_list(key, field, value)
    allowed = str | int | float if numbers else str
    for item in items:
        if not isinstance(item, allowed):
            raise bad_sample(key, f"has {_kind(item)} among its {field}", "write it as text")
    return [str(item) for item in items]


def to_whole_number(key: str, field: str, value: Any) -> int:
    """A whole number, which may also be written as a text.

    Raises:
        RecordError: it is something else.
    """
    number = _number(value)
    if number is None or not number.is_integer():
        raise _no_number(key, field, value, "a whole number")
    return int(number)


def to_number(key: str, field: str, value: Any) -> float:
    """A number, which may also be written as a text.

    Raises:
        RecordError: it is something else.
    """
    number = _number(value)
    if number is None:
        raise _no_number(key, field, value, "a number")
    return number


def images_of(image: Any) -> list[Any]:
    """The images of a field that holds one, several, or None."""
    if image is None:
        return []
    return list(image) if isinstance(image, list | tuple) else [image]


def check_image_field(key: str, image: Any) -> None:
    """See that an image is one of what read_image takes.

    Raises:
        RecordError: it is something else.
    """
    if not isinstance(image, bytes | Image.Image | torch.Tensor):
        raise bad_sample(key, f"has {_kind(image)} where an image belongs", "give bytes of a file")


def _number(value: Any) -> float | None:
    """None of what is no number. Beyond 2 ** 53 it is rounded: no list has as many items."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # The last is torch's.
        return None
    return None if isnan(number) else number


def _no_number(key: str, field: str, value: Any, needed: str) -> RecordError:
    # Not of anything: what is nested deeply has no repr.
    shown = repr(value) if value is None or isinstance(value, bool | float) else _kind(value)
    if isinstance(value, str):
        shown = repr(value[:40])
    return bad_sample(key, f"its {field} has {shown}, which is not {needed}", f"give {needed}")


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
