"""LLaVA's own format: `{"id", "image": path or list, "conversations": [{"from", "value"}]}`."""

from __future__ import annotations

import json
from operator import attrgetter
from typing import Any, NoReturn

import msgspec

from ...errors import RecordError
from ...loaders.refuse import OTHER_MEDIA, refuse_other_media
from ...loaders.turns import Turn
from .media import IMAGES
from .record import Record, load_json


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
_more = attrgetter(*_MORE)


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
    says_more = any(_more(row))
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
    if not isinstance(row, dict):
        _reject("not_an_object", f"is {_kind(row)}, not an object")
    refuse_other_media(row)
    if not isinstance(row.get("id"), str | int | float | None) or isinstance(row.get("id"), bool):
        _reject("bad_id", f"'id' is {_kind(row['id'])}")
    if isinstance(row.get("id"), str) and not _is_text(row["id"]):
        _reject("lone_surrogate", "'id' holds half of a surrogate pair")
    if "conversations" not in row:
        _reject("missing_conversations", f"has no 'conversations'; its keys: {_keys(row)}")
    if not isinstance(row["conversations"], list):
        _reject(
            "bad_conversations", f"'conversations' is {_kind(row['conversations'])}, not a list"
        )
    turns = [_turn(number, turn) for number, turn in enumerate(row["conversations"])]
    for field in ("image", "images"):
        value = row.get(field)
        paths = value if isinstance(value, list) else [] if value is None else [value]
        for path in paths:
            if not isinstance(path, str):
                _reject("bad_image_field", f"'{field}' holds {_kind(path)}, not a path")
            if not _is_text(path):
                _reject("bad_path", f"'{field}' holds half of a surrogate pair: {path!a}")
    known = {name: row.get(name) for name in ("id", "image", "images", *_MORE)}
    found: _Row = _Full(conversations=turns, **known)
    return found


def load_record(raw: bytes) -> Any:
    """A record as Python objects, leniently.

    Raises:
        RecordError: `invalid_utf8` or `invalid_json`.
    """
    try:
        return load_json(raw)
    except UnicodeDecodeError as cause:
        _reject("invalid_utf8", f"byte {cause.start} of the record is not UTF-8")
    except json.JSONDecodeError as cause:
        _reject("invalid_json", f"is not valid JSON: {cause.msg} at its character {cause.pos}")
    except (ValueError, RecursionError) as cause:
        _reject("invalid_json", f"is not valid JSON: {cause}")


def _turn(number: int, turn: Any) -> Turn:
    if not isinstance(turn, dict):
        _reject("bad_turn", f"turn {number} is {_kind(turn)}, not an object")
    if "from" not in turn:
        _reject("missing_role", f"turn {number} has no 'from'; its keys: {_keys(turn)}")
    if not isinstance(turn["from"], str):
        _reject("unknown_role", f"turn {number}: 'from' is {_kind(turn['from'])}")
    if "value" not in turn:
        _reject("missing_value", f"turn {number} ({turn['from']!r}) has no 'value'")
    if not isinstance(turn["value"], str):
        _reject("bad_value", f"turn {number} ({turn['from']!r}): 'value' is {_kind(turn['value'])}")
    for text in (turn["from"], turn["value"]):
        if not _is_text(text):
            _reject("lone_surrogate", f"turn {number} holds half of a surrogate pair")
    return Turn(role=turn["from"], value=turn["value"])


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _keys(row: dict[str, Any]) -> str:
    return ", ".join(repr(key) for key in list(row)[:8]) or "none"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true/false", int: "a number", float: "a number", str: "a string"}
    return {**names, list: "a list", dict: "an object"}[type(value)]


def _reject(reason: str, message: str) -> NoReturn:
    raise RecordError(message, reason=reason)
