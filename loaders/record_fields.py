"""What a record of a JSON file says: its turns and its images, or why it is refused.

These are convert's rules and reasons, so that both ways train on the same: a record is brought into
LLaVA's form, and then checked by the functions that convert checks it with.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from ..errors import RecordError
from ..templates.messages import IMAGE_PARTS, TEXT_PARTS
from .format import IMAGE_PLACEHOLDER
from .loose_record import check_fields, read_paths, read_turns
from .refuse import refuse_part, refuse_unread
from .turns import check_placeholders, check_turns

ROLES = {
    **dict.fromkeys(("human", "user", "prompter", "questioner"), "human"),
    **dict.fromkeys(("gpt", "assistant", "bot", "model", "chatgpt", "ai", "answerer"), "gpt"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Role in lower case -> its name in LLaVA's form."""
CONVERSATIONS = ("conversations", "messages")
"""Fields that a record read lazily may have its conversation in; convert takes one more."""
IMAGES = (
    "image", "images", "image_path", "image_paths", "img", "img_path", "image_file", "image_files",
    "image_url", "image_urls", "file_name",
)  # fmt: skip
"""Fields beside a conversation that hold its images."""
UNREAD = ("tools", "functions")
"""Fields that a conversation would lack."""
UNREAD_IN_MESSAGE = ("tool_calls", "function_call")
_PATH_IN_TEXT = re.compile(r"<img>[^<>\n]+</img>")
"""Qwen-VL's images."""


def read_fields(record: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The turns of a record, after its system text if it has one, and paths of its images.

    Args:
        record: of LLaVA's form, or with `messages` of `role` and `content`.

    Raises:
        RecordError: it is not fit to train on, with a reason of docs/reasons.md; the message lacks
            the record's place.
    """
    check_fields(record)
    refuse_unread(record, UNREAD)
    messages = _messages(record)
    turns = read_turns({"conversations": messages})
    field = _image_field(record)
    paths = read_paths(record, field)
    found = check_turns(turns)
    asked = (turn.value for turn in turns if turn.role == "human")
    if not paths and any(map(_PATH_IN_TEXT.search, asked)):
        _refuse_form("has images within its text as '<img>path</img>'")
    check_placeholders(len(paths), found, insert=False)
    return messages, paths


def _messages(record: dict[str, Any]) -> Any:
    """The conversation in LLaVA's form; of any type, as long as it is not checked."""
    name = "messages" if "conversations" not in record and "messages" in record else "conversations"
    if not isinstance(record.get(name), list):
        # It is refused with what it has in place of a list.
        read_turns({"conversations": record[name]} if name in record else record)
    messages = [_message(number, turn) for number, turn in enumerate(record[name])]
    system = record.get("system")
    if isinstance(system, str) and system.strip():
        return [{"from": "system", "value": system}, *messages]
    return messages


def _message(number: int, turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    refuse_unread(turn, UNREAD_IN_MESSAGE)
    role, text = ("from" if "from" in turn else "role"), ("value" if "value" in turn else "content")
    said = turn.get(role)
    name = ROLES.get(said.strip().lower(), said) if isinstance(said, str) else said
    if (role, text) == ("from", "value") and name == said:
        return turn
    message = {key: turn[key] for key in turn if key not in (role, text)}
    if role in turn:
        message["from"] = name
    if text in turn:
        content = turn[text]
        is_parts = text == "content" and isinstance(content, list)
        message["value"] = _text_of(content, name, f"turn {number}") if is_parts else content
    return message


def _text_of(parts: list[Any], role: Any, where: str) -> str:
    return "".join(_part(part, role, where) for part in parts)


def _part(part: Any, role: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = str(part.get("type")) if isinstance(part, dict) else type(part).__name__
    if kind in TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind not in IMAGE_PARTS:
        refuse_part(kind, where)
    if role != "human":
        raise RecordError(f"{where} ({role}) holds an image", reason="image_in_answer")
    if any(part[name] is not None for name in part if name != "type"):
        _refuse_form(f"{where} holds an image with its path")
    return IMAGE_PLACEHOLDER


def _image_field(record: dict[str, Any]) -> str:
    """Field that holds the images; LLaVA's where none does."""
    own = [name for name in IMAGES[:2] if record.get(name) is not None]
    if len(own) < 2 and not (own and record[own[0]]):
        others = [name for name in IMAGES[2:] if record.get(name) not in (None, [], "")]
        own = others or own
    if len(own) > 1:
        raise RecordError(f"has both '{own[0]}' and '{own[1]}'", reason="field_conflict")
    return own[0] if own else IMAGES[0]


def _refuse_form(finding: str) -> NoReturn:
    raise RecordError(f"{finding}, which neva-prep convert alone reads", reason="other_form")
