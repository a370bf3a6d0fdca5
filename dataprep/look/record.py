"""A record as it stands in its source, and what its checks find, with the place in its text."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from ...errors import ImageError, NevaPrepError
from ...loaders.image_header import PIXEL_LIMIT, decode_fully, read_header
from ...loaders.loose_record import load_json
from ...loaders.turns import check_placeholders, check_turns
from ..readers.form import ReadRecord, read_as_llava
from ..readers.record import Record
from ..readers.record_forms import CONVERSATIONS
from ..reasons import REJECTIONS
from ..stores.store import ImageStore, read_image
from .json_text import Path, lay_out
from .view import Finding, Place, RecordView


class _IdOnly(msgspec.Struct):
    id: str | int | float | None = None


_decode_id = msgspec.json.Decoder(_IdOnly).decode
_TURN = re.compile(r"(?:the last )?turns? \(?(\d+)(?: and (\d+))?")
_FIELD_OF = {
    "unknown_role": "from",
    "empty_value": "value",
    "bad_value": "value",
    "nul_in_text": "value",
}
_PLACES: dict[str, tuple[str, ...]] = {
    "bad_id": ("id",),
    "bad_conversations": ("conversations",),
    "empty_conversation": ("conversations",),
    "field_conflict": ("images",),
}


def view_record(
    raw: bytes, place: Place, *, key: str, error: NevaPrepError | None, fix: str = ""
) -> RecordView:
    """A record and the one fault that its checks stopped at.

    Args:
        raw: the record's JSON, or what stands in its place.
        place: where.
        key: that it has, or would get, in a shard.
        error: the fault; None where every check passes.
        fix: the way out, where the error's message lacks it.
    """
    value = _parsed(raw)
    text, span = _text_and_span(raw, value, error)
    findings: tuple[Finding, ...] = ()
    if error is not None:
        start, end = span or (None, None)
        message = f"{error}; {fix}" if fix else str(error)
        reason = error.reason or type(error).__name__
        findings = (Finding(reason=reason, message=message, start=start, end=end),)
    name = id_of(raw)
    return RecordView(
        place=place,
        id=key if name is None else name,
        key=key,
        text=text,
        findings=findings,
        is_named=name is not None,
    )


def check_record(
    raw: bytes,
    images: ImageStore | None,
    read: ReadRecord = read_as_llava,
    *,
    pixel_limit: int = PIXEL_LIMIT,
    decode: bool = False,
) -> tuple[Record, list[bytes]]:
    """What converting a record would read: the record, and its images where there is a folder.

    Args:
        raw: the record's JSON.
        images: where its images are.
        read: reads records of its form.
        pixel_limit: largest width x height of an image.
        decode: decode every image, as `--check decode` does.

    Raises:
        RecordError, ImageError: what would put it into quarantine.
    """
    record = read(raw).record
    check_placeholders(len(record.images), check_turns(record.turns), insert=False)
    paths = () if images is None else record.images
    return record, [_read_checked(images, path, pixel_limit, decode) for path in paths if images]


def id_of(raw: bytes) -> str | None:
    """The id that a record has; None of one without, or that is no JSON."""
    try:
        found: Any = _decode_id(raw).id
    except (ValueError, RecursionError):
        # A lenient reader, since the record may be sound but for a field that only passes through.
        value = _parsed(raw)
        found = value.get("id") if isinstance(value, dict) else None
    return None if found is None or isinstance(found, list | dict) else str(found)


def way_out(error: NevaPrepError) -> str:
    """What fixes the fault of a source record."""
    return REJECTIONS.get(error.reason, "")


def _read_checked(images: ImageStore, path: str, pixel_limit: int, decode: bool) -> bytes:
    data = read_image(images, path)
    try:
        read_header(data, pixel_limit=pixel_limit)
        if decode:
            decode_fully(data)
    except ImageError as error:
        raise ImageError(f"image {path!r} {error}", reason=error.reason) from error
    return data


def _parsed(raw: bytes) -> Any:
    try:
        return load_json(raw)
    except (ValueError, RecursionError):
        return None


def _text_and_span(
    raw: bytes, value: Any, error: NevaPrepError | None
) -> tuple[str, tuple[int, int] | None]:
    """The text to show, and the characters of it that a fault is about."""
    text = raw.decode("utf-8", "backslashreplace")
    if value is None:
        return text, _broken_place(raw, text)
    path = fault_path(value, error) if error is not None else None
    laid = lay_out(text, path or ())
    return laid.text, laid.span if path else None


def _broken_place(raw: bytes, text: str) -> tuple[int, int] | None:
    """Where a text stops being JSON in UTF-8."""
    try:
        json.loads(raw.decode())
    except UnicodeDecodeError as error:
        start = len(raw[: error.start].decode("utf-8", "backslashreplace"))
        return start, start + len("\\xNN")
    except json.JSONDecodeError as error:
        return (error.pos, error.pos + 1) if error.pos < len(text) else (len(text), len(text))
    except (ValueError, RecursionError):
        return None
    return None


def fault_path(value: Any, error: NevaPrepError) -> Path | None:
    """The value of a parsed record that a fault is about, where the fault tells."""
    if not isinstance(value, dict):
        return None
    reason, message = error.reason, str(error)
    if reason in _PLACES:
        return _PLACES[reason]
    if reason in ("placeholder_missing", "placeholder_mismatch"):
        return (field,) if (field := _messages_field(value)) else None
    if turn := _TURN.match(message):
        # Of two that do not follow each other, it is the second that is out of place.
        path = (_messages_field(value), int(turn[2] or turn[1]))
        if not path[0] or path[1] >= len(value[path[0]]):
            return None
        return (*path, _FIELD_OF[reason]) if _has(value, path, _FIELD_OF.get(reason)) else path
    if isinstance(error, ImageError) or reason in ("bad_image_field", "bad_path"):
        return _image_path(value, message)
    return None


def _messages_field(value: dict[str, Any]) -> str:
    """The field whose list the numbers of turns count; empty of a form that has none."""
    if value.get("system"):
        return ""  # It is a turn of its own there.
    return next((name for name in CONVERSATIONS if isinstance(value.get(name), list)), "")


def _has(value: Any, path: tuple[str, int], field: str | None) -> bool:
    turn = value[path[0]][path[1]]
    return field is not None and isinstance(turn, dict) and field in turn


def _image_path(value: dict[str, Any], message: str) -> Path | None:
    """The path, of one or several, that a message begins with; else what is no path at all."""
    for field in ("image", "images"):
        found = value.get(field)
        for number, path in enumerate(found if isinstance(found, list) else ()):
            # Messages cut a long path.
            named = {repr(path), repr(path[:200])} if isinstance(path, str) else None
            if named is None or any(
                message.startswith((f"image {n}", f"image path {n}")) for n in named
            ):
                return (field, number)
        if found is not None:
            return (field,)
    return None
