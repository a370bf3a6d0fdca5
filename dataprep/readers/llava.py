"""LLaVA's own format: `{"id", "image": path or list, "conversations": [{"from", "value"}]}`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import astuple

from ...errors import RecordError
from ...loaders.loose_record import check_fields, load_record, read_paths, read_turns
from ...loaders.record_fields import IMAGES
from ...loaders.refuse import OTHER_MEDIA, refuse_other_media
from ...loaders.turns import Turn
from .record import Record


class _Row(msgspec.Struct):
    conversations: list[Turn]
    id: str | int | float | None = None
    image: str | list[str] | None = None
    images: str | list[str] | None = None


_BESIDE = ("system", "tools", "functions")
_MORE = (*OTHER_MEDIA, *_BESIDE, *IMAGES[2:])
_Full: Any = msgspec.defstruct("_Full", [(name, Any, None) for name in _MORE], bases=(_Row,))
"""The same with what else a record may say, in fields that other forms have."""
_decode = msgspec.json.Decoder(_Full).decode
_OWN = len(_Row.__struct_fields__)
"""Fields of this form, which come first."""


def read_llava(raw: bytes) -> Record:
    """Parse one record.

    Args:
        raw: the record's JSON, UTF-8.

    Raises:
        RecordError: with a `reason` of reasons.REJECTIONS; the message lacks the place, which the
            caller knows.
    """
    return _record(_row(raw)[0])


def read_only_llava(raw: bytes) -> Record | None:
    """The same; None of a record that says more than LLaVA's form can.

    That is a system text or tools beside its turns, or its images under another name or in a text:
    read as LLaVA's, it would lose them.
    """
    row, says_more = _row(raw)
    has_images = row.image or row.images
    if says_more:
        names = _BESIDE if has_images else _MORE
        if any(getattr(row, name) for name in names):
            return None
    if not has_images and any("</img>" in turn.value for turn in row.conversations):
        return None
    return _record(row)


def _row(raw: bytes) -> tuple[_Row, bool]:
    """A record, and whether it says anything in fields that other forms have."""
    try:
        if not raw.isascii():
            raw.decode()
        row: _Row = _decode(raw)
    except (ValueError, RecursionError):
        row = _read_slowly(raw)
    says_more = any(astuple(row)[_OWN:])
    if says_more:
        refuse_other_media({name: v for name in OTHER_MEDIA if (v := getattr(row, name))})
    return row, says_more


def _record(row: _Row) -> Record:
    if row.image is not None and row.images is not None:
        raise RecordError("has both 'image' and 'images'", reason="field_conflict")
    paths = row.image if row.image is not None else row.images
    images = () if paths is None else (paths,) if isinstance(paths, str) else tuple(paths)
    return Record(id=row.id, turns=row.conversations, images=images)


def _read_slowly(raw: bytes) -> _Row:
    """Find what is wrong with a record that the strict decoder refuses.

    A record can be sound all the same: half a surrogate pair in a field that we only pass on, say.
    """
    row = load_record(raw)
    check_fields(row)
    turns = read_turns(row)
    for field in ("image", "images"):
        read_paths(row, field)
    known = {name: row.get(name) for name in ("id", "image", "images", *_MORE)}
    found: _Row = _Full(conversations=turns, **known)
    return found
