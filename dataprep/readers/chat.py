"""Conversations as a list of messages: ShareGPT, OpenAI, Hugging Face, Qwen-VL, Mantis, others.

Whether it is called `conversations`, `messages` or `conversation`, with `from` and `value` or
`role` and `content`, whatever the roles are called, with texts or with parts: it is read alike.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ...errors import RecordError
from ...loaders.record_fields import ROLES, UNREAD, UNREAD_IN_MESSAGE
from ...loaders.refuse import refuse_part, refuse_unread
from .media import picture_of
from .placeholders import Mark
from .raw_json import raw_fields, raw_items
from .record import Read
from .record_forms import conversation_field, form_of, is_pair
from .talk import Message, Talk, read_talk

_ROLE = ("from", "role", "speaker")
_TEXT = ("value", "content", "text")
_ASKS, _ANSWERS = ("human", "user"), ("assistant", "gpt")


def read_chat(raw: bytes) -> Read:
    """Read a record that holds a list of messages; see form.ReadRecord."""
    return read_talk(raw, _find)


def _find(record: dict[str, Any], found: dict[str, bytes]) -> Talk:
    refuse_unread(record, UNREAD)
    name = conversation_field(record)
    if not name:
        _refuse(record)
    messages: list[Message] = []
    is_first_system = isinstance(record.get("system"), str) and bool(record["system"].strip())
    if is_first_system:
        messages.append(Message("system", [record["system"]]))
    # Only a message that says more than who and what is looked at field by field.
    is_plain = all(isinstance(turn, dict) and len(turn) <= 2 for turn in record[name])
    raws = [] if is_plain else raw_items(found[name])
    for number, turn in enumerate(record[name]):
        if not isinstance(turn, dict):
            raise RecordError(f"turn {number} is no object", reason="bad_turn")
        fields = {} if is_plain else raw_fields(raws[number])
        messages += _pair(turn, fields) if is_pair(turn) else [_message(number, turn, fields)]
    return Talk(messages, (name, "system") if is_first_system else (name,))


def _refuse(record: dict[str, Any]) -> NoReturn:
    form = form_of(record)
    reason = "other_form" if form.read_as else "missing_conversations"
    raise RecordError(f"has no list of messages; it is {form.title}: {form.why}", reason=reason)


def _message(number: int, turn: dict[str, Any], found: dict[str, bytes]) -> Message:
    role = next((name for name in _ROLE if name in turn), None)
    value = next((name for name in _TEXT if name in turn), None)
    if role is None or not isinstance(turn[role], str):
        reason = "missing_role" if role is None else "unknown_role"
        raise RecordError(f"turn {number} has no role: {_keys(turn)}", reason=reason)
    if value is None:
        raise RecordError(f"turn {number} ({turn[role]!r}) has no text", reason="missing_value")
    refuse_unread(turn, UNREAD_IN_MESSAGE)
    pieces = _pieces(turn[value], f"turn {number} ({turn[role]!r})")
    name = ROLES.get(turn[role].strip().lower(), turn[role])
    return Message(name, pieces, _rest(found, role, value))


def _pair(turn: dict[str, Any], found: dict[str, bytes]) -> list[Message]:
    asks = next(name for name in _ASKS if name in turn)
    answers = next(name for name in _ANSWERS if name in turn)
    rest = _rest(found, asks, answers)
    question = Message("human", _pieces(turn[asks], f"'{asks}'"), rest)
    return [question, Message("gpt", _pieces(turn[answers], f"'{answers}'"))]


def _pieces(value: Any, where: str) -> list[str | Mark]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise RecordError(f"{where}: its text is neither a string nor parts", reason="bad_value")
    return [_piece(part, where) for part in value]


def _piece(part: Any, where: str) -> str | Mark:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RecordError(f"{where} holds a part that is no object", reason="bad_value")
    kind = str(part.get("type") or next((n for n in ("text", "image") if part.get(n)), "none"))
    if "text" in kind:
        texts = (part.get(name) for name in ("text", "value", "content"))
        text = next((text for text in texts if isinstance(text, str)), None)
        if text is None:
            raise RecordError(f"{where} holds a text part without a text", reason="bad_value")
        return text
    if "image" not in kind and kind != "img":
        refuse_part(kind, where)
    number = part.get("index")
    picture = picture_of({name: part[name] for name in part if name != "type"}, where)
    is_number = isinstance(number, int) and not isinstance(number, bool) and number >= 0
    return Mark("", picture, number if is_number and picture is None else None)


def _rest(found: dict[str, bytes], *taken: str) -> dict[str, bytes]:
    """Fields of a message that are neither role nor text; those of LLaVA's names are taken."""
    skipped = {*taken, "from", "value"}
    return {name: value for name, value in found.items() if name not in skipped}


def _keys(turn: dict[str, Any]) -> str:
    return ", ".join(repr(key[:40]) for key in list(turn)[:8]) or "no field"
