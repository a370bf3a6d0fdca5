"""Messages as templates expect them: dictionaries, with marks where images and look-alikes were."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError as JinjaError

from . import sandbox
from .budget import to_json
from .marks import Marks, Protector
from .messages import Message

_CALLS = ("tool_calls", "function_call")
_TESTS_STRING = re.compile(r"\bis\s+(?:not\s+)?string\b")


def all_text(turns: Sequence[Message]) -> str:
    """Everything that the messages say, to look for characters in."""
    texts = [part for turn in turns for part in turn.parts if part is not None]
    for turn in turns:
        if turn.extras:
            texts += _texts_in(turn.extras)
    return "\n".join(texts)


def _texts_in(value: Any) -> Iterator[str]:
    """Every string in nested lists and mappings, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts_in(key)
            yield from _texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_in(inner)
    else:
        yield str(value)


class Parts(list[dict[str, Any]]):
    """Content as parts, which prints as its text where a template takes it for a string."""

    def __str__(self) -> str:
        return "".join([part.get("text", "") for part in self])


class Show:
    """Writes a message as templates expect it, its look-alikes and images replaced by marks."""

    def __init__(
        self, chat_template: str, roles: tuple[str, str], protector: Protector | None, marks: Marks
    ) -> None:
        self._chat_template = chat_template
        self._as_parts = _reads_parts(chat_template)
        self._knows_strings = _tests_for_strings(chat_template)
        self._roles = roles
        self._protector = protector
        self._slot = marks.slot

    def __call__(self, turn: Message) -> dict[str, Any]:
        """One message for the template."""
        protector = self._protector
        parts = turn.parts
        if protector is not None:
            answers = turn.role == "assistant"
            protect = protector.protect_answer if answers else protector.protect
            parts = tuple(None if part is None else protect(part) for part in parts)
        shown: dict[str, Any] = {"image_slots": self._slot * parts.count(None)}
        if turn.extras:
            shown |= protector.protect_all(turn.extras) if protector else turn.extras
        if turn.extras and (calls := _calls_as_text(shown, any(parts), self._chat_template)):
            parts = (*parts, calls)
            # They are text by now: the message ends as one without calls does.
            shown = {name: value for name, value in shown.items() if name not in _CALLS}
        # As serving has it: a list only where there is an image, if the template knows both.
        if self._as_parts and (None in parts or not self._knows_strings):
            shown["content"] = Parts(
                {"type": "image"} if part is None else {"type": "text", "text": part}
                for part in parts
            )
        else:
            shown["content"] = "".join([self._slot if part is None else part for part in parts])
        shown["role"] = _role_name(turn.role, self._roles)
        return shown


class _RoleName(str):
    """A role's name in this template that also equals its usual name.

    `message.role == 'user'` and `message.role == roles[0]` both hold, so that one template serves
    whether it was written for its own names or for the usual ones.
    """

    usual: str

    def __new__(cls, name: str, usual: str) -> _RoleName:
        role = super().__new__(cls, name)
        role.usual = usual
        return role

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or self.usual == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@lru_cache(maxsize=256)
def _role_name(role: str, roles: tuple[str, str]) -> str:
    if role not in ("user", "assistant"):
        return role
    name = roles[0] if role == "user" else roles[1]
    return role if name == role else _RoleName(name, role)


@lru_cache(maxsize=256)
def _tests_for_strings(chat_template: str) -> bool:
    """Whether the template takes content both as a string and as parts."""
    return _TESTS_STRING.search(chat_template) is not None


def _reads_parts(chat_template: str) -> bool:
    """Whether the template wants lists of parts; a template that cannot be parsed does not."""
    try:
        return sandbox.reads_content_as_parts(chat_template)
    except (JinjaError, RecursionError):
        return False


def _calls_as_text(extras: Mapping[str, Any], follows: bool, chat_template: str) -> str:
    """Tool calls as lines of JSON for templates that do not know them: nothing gets lost."""
    calls = next((extras[name] for name in _CALLS if extras.get(name)), None)
    if not calls or any(name in chat_template for name in _CALLS):
        return ""
    lines = [_call_as_text(call) for call in (calls if isinstance(calls, list) else [calls])]
    return "\n".join([""] * follows + lines)


def _call_as_text(call: Any) -> str:
    # Data sets also have calls that are JSON already.
    if isinstance(call, str):
        return call
    return to_json(call.get("function", call) if isinstance(call, Mapping) else call)
