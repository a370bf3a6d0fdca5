"""What a record of a JSON file says: its turns and its images, or why it cannot be read as it is.

These are convert's rules, so that both ways train on the same: a system text is the first turn,
images may stand under another name, and a record whose conversation would lack what another field
says is refused with convert's reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import RecordError

_IMAGES = ("image", "images")
_OTHER_IMAGES = (
    "image_path", "image_paths", "img", "img_path", "image_file", "image_files", "image_url",
    "image_urls", "file_name",
)  # fmt: skip
_UNREAD = {
    "video": "video_record",
    "videos": "video_record",
    "video_path": "video_record",
    "video_url": "video_record",
    "audio": "audio_record",
    "audios": "audio_record",
    "audio_path": "audio_record",
    "audio_url": "audio_record",
    "tools": "unread_field",
    "functions": "unread_field",
}
"""Field -> reason for which a record that has it is refused."""
_PREFERENCES = (("chosen", "rejected"), ("conversations_a", "conversations_b"))
_PATH_IN_TEXT = re.compile(r"<img>[^<>\n]+</img>")
"""Qwen-VL's images."""


def messages_of(record: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """The turns, after the record's system text if it has one.

    Args:
        record: of LLaVA's form, or with a list `messages`.
        place: file and number, for messages.

    Raises:
        RecordError: no list of turns, or one that would lack what another field says.
    """
    messages = record.get("conversations", record.get("messages"))
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise RecordError(
            f"{place}: has no list of turns as 'conversations'; correct the record",
            reason="missing_conversations",
        )
    for name, reason in _UNREAD.items():
        if record.get(name):
            raise RecordError(
                f"{place}: has '{name}', which no conversation about images can say; drop the "
                "record",
                reason=reason,
            )
    for first, second in _PREFERENCES:
        if first in record and second in record:
            raise RecordError(
                f"{place}: has '{first}' and '{second}', two answers to choose from; drop the "
                "record, or write one as its answer",
                reason="preference_record",
            )
    system = record.get("system")
    if not isinstance(system, str) or not system.strip():
        return messages
    if messages and messages[0].get("from", messages[0].get("role")) == "system":
        raise RecordError(
            f"{place}: has 'system' and a first turn of that role; leave one",
            reason="field_conflict",
        )
    return [{"from": "system", "value": system}, *messages]


def image_paths_of(
    record: Mapping[str, Any], messages: list[dict[str, Any]], place: str
) -> list[str]:
    """Paths of the images, in the order of their placeholders.

    Args:
        record: the record.
        messages: its turns.
        place: file and number, for messages.

    Raises:
        RecordError: they are no paths, stand in two fields, or in the text.
    """
    name = _image_field(record, _IMAGES, place) or _image_field(record, _OTHER_IMAGES, place)
    if name is None:
        texts = (str(turn.get("value", turn.get("content"))) for turn in messages)
        if any(_PATH_IN_TEXT.search(text) for text in texts):
            raise RecordError(
                f"{place}: has images within its text as '<img>path</img>', which are read by "
                "neva-prep convert alone",
                reason="other_form",
            )
        return []
    found = record[name]
    paths = [found] if isinstance(found, str) else found
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise RecordError(
            f"{place}: '{name}' is neither a path nor a list of paths; correct the record",
            reason="bad_image_field",
        )
    return paths


def _image_field(record: Mapping[str, Any], names: tuple[str, ...], place: str) -> str | None:
    present = [name for name in names if record.get(name) not in (None, [])]
    if len(present) > 1:
        raise RecordError(
            f"{place}: has both '{present[0]}' and '{present[1]}'; leave one",
            reason="field_conflict",
        )
    return present[0] if present else None
