"""A record of LLaVA's form as Python objects: what is wrong with it, field by field.

Convert's strict decoder is faster and names no reason; it asks here where it refuses a record.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ..errors import RecordError
from .refuse import refuse_other_media
from .turns import Turn


def load_json(raw: bytes) -> Any:
    """Any JSON text as Python objects; slower and more lenient than msgspec, yet no NaN passes.

    Raises:
        ValueError: it is no JSON (json.JSONDecodeError) or no UTF-8 (UnicodeDecodeError).
        RecursionError: it is nested too deeply.
    """
    return json.loads(raw.decode(), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


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


def check_fields(row: Any) -> None:
    """Check all fields of a record but its conversation.

    Raises:
        RecordError: with a reason of docs/reasons.md; the message lacks the record's place.
    """
    if not isinstance(row, dict):
        _reject("not_an_object", f"is {_kind(row)}, not an object")
    refuse_other_media(row)
    if not isinstance(row.get("id"), str | int | float | None) or isinstance(row.get("id"), bool):
        _reject("bad_id", f"'id' is {_kind(row['id'])}")
    if isinstance(row.get("id"), str) and not _is_text(row["id"]):
        _reject("lone_surrogate", "'id' holds half of a surrogate pair")


def read_turns(row: dict[str, Any]) -> list[Turn]:
    """The turns of a record, not checked against each other.

    Raises:
        RecordError: as `check_fields`.
    """
    if "conversations" not in row:
        _reject("missing_conversations", f"has no 'conversations'; its keys: {_keys(row)}")
    if not isinstance(row["conversations"], list):
        _reject(
            "bad_conversations", f"'conversations' is {_kind(row['conversations'])}, not a list"
        )
    return [_turn(number, turn) for number, turn in enumerate(row["conversations"])]


def read_paths(row: dict[str, Any], field: str) -> list[str]:
    """Paths of images that a field holds, one or a list; none where it is missing or null.

    Raises:
        RecordError: as `check_fields`.
    """
    value = row.get(field)
    paths = value if isinstance(value, list) else [] if value is None else [value]
    for path in paths:
        if not isinstance(path, str):
            _reject("bad_image_field", f"'{field}' holds {_kind(path)}, not a path")
        if not _is_text(path):
            _reject("bad_path", f"'{field}' holds half of a surrogate pair: {path!a}")
    return paths


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
