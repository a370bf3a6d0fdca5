"""What makes a document fit to train on, apart from its image files."""

from __future__ import annotations

from typing import NoReturn

from ..errors import RecordError
from ..loaders.format import IMAGE_PLACEHOLDER
from ..loaders.turns import Placeholders, Turn, check_turns, is_document


def check_pieces(turns: list[Turn]) -> Placeholders:
    """Check the pieces of a document, or the turns of a conversation.

    Raises:
        RecordError: with the reason; the message names the piece and lacks the record's place.
    """
    if not is_document(turns):
        return check_turns(turns)
    asked = 0
    for number, turn in enumerate(turns):
        if turn.value == IMAGE_PLACEHOLDER:
            asked += 1
        elif not turn.value.strip():
            _reject("empty_value", f"piece {number} is empty")
        elif IMAGE_PLACEHOLDER in turn.value:
            _reject(
                "literal_placeholder",
                f"piece {number} has a literal '{IMAGE_PLACEHOLDER}' within its text",
            )
        elif "\0" in turn.value:
            _reject("nul_in_text", f"piece {number} holds a NUL character")
    if asked == len(turns):
        _reject("no_text", "has images and no text")
    return Placeholders(asked, 0)


def _reject(reason: str, message: str) -> NoReturn:
    raise RecordError(message, reason=reason)
