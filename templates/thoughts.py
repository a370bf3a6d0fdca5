"""What a model thinks before it answers: in the answer itself, or in a field beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .messages import Message

FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Where messages keep thoughts apart from the answer."""


def after_thoughts(text: str, sought: tuple[str, ...]) -> int:
    """Where an answer goes on behind the last tag that its template looks for; 0 without one."""
    return max((text.rfind(tag) + len(tag) for tag in sought if tag in text), default=0)


def has_thoughts(message: Mapping[str, Any], sought: tuple[str, ...]) -> bool:
    """Whether an answer, as the template gets it, has thoughts beside or before its text."""
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return bool(_beside(message)) or any(after_thoughts(text, sought) for text in texts)


def count_dropped(turns: Sequence[Message], text: str, sought: tuple[str, ...]) -> int:
    """Answers whose thoughts the rendered text does not show."""
    return sum(
        _is_dropped(turn, text, sought)
        for turn in turns
        # Thoughts stand before a tag or in a field.
        if turn.role == "assistant" and (sought or turn.extras)
    )


def _is_dropped(turn: Message, text: str, sought: tuple[str, ...]) -> bool:
    thought = turn.text[: after_thoughts(turn.text, sought)]
    for tag in sought:
        thought = thought.replace(tag, "").replace(tag.replace("</", "<"), "")
    return any(said.strip() not in text for said in (thought, _beside(turn.extras)))


def _beside(fields: Mapping[str, Any]) -> str:
    said = next((fields[name] for name in FIELDS if fields.get(name)), "")
    return said if isinstance(said, str) else ""
