"""Conversations of every dialect become one form: a role, texts and images in order, extras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import TemplateError

ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
IMAGE_PARTS = {"image", "image_url", "input_image"}
TEXT_PARTS = {"text", "input_text", "output_text"}
_CORE = {"role", "from", "content", "value"}

Part = str | None
"""A text, or None for an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn: what was said, with images where they stand."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    parts: tuple[Part, ...]
    """Texts and images in order; None is an image."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Every other field of the message: tool calls, names, labels."""

    @property
    def num_images(self) -> int:
        """Images of this turn."""
        return self.parts.count(None)

    @property
    def text(self) -> str:
        """The texts, joined; images leave nothing."""
        return "".join(part for part in self.parts if part is not None)


def read_messages(
    conversation: Sequence[Mapping[str, Any]], image_token: str = "<image>"
) -> tuple[Message, ...]:
    """One conversation, whatever its dialect.

    A string has an image wherever `image_token` stands, except in an answer: what a model says is
    text. A list of parts has its images as parts; once a conversation uses such parts, its texts
    are texts, strings beside them too.

    Args:
        conversation: `{"role", "content"}` or LLaVA's `{"from", "value"}`, content a string or a
            list of OpenAI's or Hugging Face's parts.
        image_token: the placeholder in strings.

    Raises:
        TemplateError: no messages, an unknown role, or content of an unknown kind.
    """
    if not conversation:
        raise TemplateError("the conversation has no messages; drop the record")
    marked = any([_has_image_part(message) for message in conversation])
    return tuple(
        [
            _read_message(message, index, image_token, marked)
            for index, message in enumerate(conversation)
        ]
    )


def move_images_to_front(message: Message) -> Message:
    """Every image before the text of its turn, each on a line of its own, as LLaVA feeds them."""
    if message.role == "assistant" or not message.num_images:
        return message
    text = message.text.strip()
    lines: list[Part] = [None]
    for _ in range(message.num_images - 1):
        lines += ["\n", None]
    return replace(message, parts=(*lines, "\n" + text) if text else tuple(lines))


def _has_image_part(message: Mapping[str, Any]) -> bool:
    content = _content(message)
    if isinstance(content, str) or not isinstance(content, list | tuple):
        return False
    return any(isinstance(part, Mapping) and part.get("type") in IMAGE_PARTS for part in content)


def _is_llavas(message: Mapping[str, Any]) -> bool:
    """Whether its fields are LLaVA's; where it has both kinds, those are what convert checks."""
    return "from" in message and "value" in message


def _content(message: Mapping[str, Any]) -> Any:
    if "content" in message and not _is_llavas(message):
        return message["content"]
    return message.get("value")


def _read_message(
    message: Mapping[str, Any], index: int, image_token: str, marked: bool
) -> Message:
    has_role = "role" in message and not _is_llavas(message)
    name = message["role"] if has_role else message.get("from")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise TemplateError(
            f"message {index}: unknown role {name!r}; known are {', '.join(sorted(ROLES))}"
        )
    literal = role == "assistant"
    content = _content(message)
    if isinstance(content, str):
        parts = (content,) if literal or marked else _split_images(content, image_token)
    elif content is None:
        parts = ()
    elif isinstance(content, list | tuple):
        parts = tuple(
            piece
            for part in content
            for piece in _read_part(part, index, image_token, literal or marked)
        )
    else:
        raise TemplateError(
            f"message {index}: content is {type(content).__name__}; "
            "give a string or a list of parts"
        )
    if len(parts) != 1:
        parts = _join_texts(parts)
    if len(message) == 2:
        return Message(role=role, parts=parts)
    extras = {key: value for key, value in message.items() if key not in _CORE}
    return Message(role=role, parts=parts, extras=extras)


def _read_part(part: Any, index: int, image_token: str, literal: bool) -> tuple[Part, ...]:
    if isinstance(part, Mapping):
        kind = part.get("type", "text" if "text" in part else None)
        if kind in IMAGE_PARTS:
            return (None,)
        text = part.get("text", part.get("content")) if kind in TEXT_PARTS else None
    else:
        kind, text = type(part).__name__, part
    if not isinstance(text, str):
        raise TemplateError(
            f"message {index}: a part of kind {kind!r} is not known; give text and image parts"
        )
    return (text,) if literal else _split_images(text, image_token)


def _split_images(text: str, image_token: str) -> tuple[Part, ...]:
    if image_token not in text:
        return (text,)
    first, *rest = text.split(image_token)
    return (first, *(piece for text in rest for piece in (None, text)))


def _join_texts(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Neighbouring texts as one, so that nothing can hide across a seam."""
    joined: list[Part] = []
    for part in parts:
        if part is not None and joined and joined[-1] is not None:
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)
