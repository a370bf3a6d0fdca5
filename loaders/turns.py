"""What makes a conversation fit to train on, apart from its image files; to convert and lazily."""

from __future__ import annotations

from typing import NoReturn

import msgspec

from ..errors import RecordError
from .format import IMAGE_PLACEHOLDER
from .members import DOCUMENT_ROLE

_DIALOGUE = ["human", "gpt"]


class Turn(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message of a conversation."""

    role: str = msgspec.field(name="from")
    """`human`, `gpt` or `system`; anything else is rejected by the checks."""
    value: str


class Placeholders(msgspec.Struct, frozen=True):
    """How often `<image>` stands in a conversation."""

    asked: int
    """In human turns: each one is a place for an image."""
    answered: int
    """In gpt and system turns: plain text."""


def check_turns(turns: list[Turn]) -> Placeholders:
    """Check the roles and texts of a conversation.

    Raises:
        RecordError: with the reason; the message names the turn and lacks the record's place.
    """
    if not turns:
        _reject("empty_conversation", "the conversation is empty")
    first = 1 if turns[0].role == "system" else 0
    roles = [turn.role for turn in turns]
    values = [turn.value for turn in turns]
    text = "".join(values)
    # The usual conversation passes these tests at once; only a bad one is looked at closer.
    pairs = (len(turns) - first) // 2
    if not pairs or roles[first:] != _DIALOGUE * pairs or not all(map(str.strip, values)):
        _reject_turns(turns, first)
    if "\0" in text:
        _reject_turns(turns, first)
    total = text.count(IMAGE_PLACEHOLDER)
    asked = values[first].count(IMAGE_PLACEHOLDER)
    if asked < total:
        asked += sum(value.count(IMAGE_PLACEHOLDER) for value in values[first + 2 :: 2])
    return Placeholders(asked, total - asked)


def is_document(turns: list[Turn]) -> bool:
    """Whether this is no conversation but a document: texts, and `<image>` for each image."""
    return bool(turns) and all(turn.role == DOCUMENT_ROLE for turn in turns)


def check_placeholders(images: int, placeholders: Placeholders, *, insert: bool) -> bool:
    """Count placeholders against images.

    Args:
        images: how many the record has.
        placeholders: those found in it.
        insert: whether an image record without any placeholder may be repaired.

    Returns:
        Whether placeholders are to be inserted.

    Raises:
        RecordError: the counts differ.
    """
    if placeholders.asked == images:
        return False
    if placeholders.asked == 0:
        if insert:
            return True
        _reject("placeholder_missing", f"has {images} image(s) but no '{IMAGE_PLACEHOLDER}'")
    _reject(
        "placeholder_mismatch",
        f"human turns have {placeholders.asked} '{IMAGE_PLACEHOLDER}' for {images} image(s)",
    )


def _reject_turns(turns: list[Turn], first: int) -> NoReturn:
    """Say what is wrong with the first bad turn of a conversation that is known to have one."""
    if is_document(turns):
        _reject("is_document", "is a document of texts and images, not a conversation")
    if first == len(turns):
        _reject("empty_conversation", "the conversation is only a system turn")
    for number, turn in enumerate(turns):
        if number >= first and turn.role != _DIALOGUE[(number - first) % 2]:
            _reject_role(turns, number, first)
        if not turn.value.strip():
            _reject("empty_value", f"turn {number} ({turn.role}) has an empty 'value'")
        if "\0" in turn.value:
            _reject("nul_in_text", f"turn {number} ({turn.role}) holds a NUL character")
    _reject("no_answer", f"the last turn ({len(turns) - 1}) is {turns[-1].role!r}, not 'gpt'")


def _reject_role(turns: list[Turn], number: int, first: int) -> NoReturn:
    role = turns[number].role
    if role not in ("human", "gpt", "system") or role == "system":
        where = "not at the start" if role == "system" else "not a known role"
        _reject("unknown_role", f"turn {number} is from {role!r}, which is {where}")
    if number == first:
        _reject("starts_with_answer", f"turn {number} is from {role!r}; a human must begin")
    _reject("roles_not_alternating", f"turns {number - 1} and {number} are both from {role!r}")


def _reject(reason: str, message: str) -> NoReturn:
    raise RecordError(message, reason=reason)
