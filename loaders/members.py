"""The members of one sample, checked against each other: record, conversation, image list."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import RecordError
from .format import IMAGE_PLACEHOLDER, ImageEntry

JSON_MEMBER = "json"
"""What follows the key in the name of a sample's record; the record is the last member."""
DOCUMENT_ROLE = "text"
"""Of the pieces of a document; a piece is a text, or the `<image>` of one image."""
USER_ROLES = frozenset(("human", "user", DOCUMENT_ROLE))
"""Turns in which `<image>` is a place for an image; elsewhere it is plain text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """What the JSON member of a sample says."""

    id: str
    record: dict[str, Any]
    """The whole member: the source's fields and `images`."""
    messages: list[dict[str, Any]]
    """The conversation as the record has it."""
    images: tuple[ImageEntry, ...]
    """In the order of their placeholders."""


def read_record(key: str, data: bytes, members: Collection[str]) -> SampleRecord:
    """Read the JSON member of a sample and hold it against the other members.

    Args:
        key: key of the sample, for messages.
        data: the JSON member.
        members: names of the sample's other members, without the key.

    Raises:
        RecordError: the member is no record, its image list is not the members that are there, or
            its user turns have not one `<image>` for each image. The message starts with the key.
    """
    record = _decode(key, data)
    if not isinstance(record.get("id"), (str, int, float)):
        raise _fault(key, "has no 'id'")
    try:
        images = tuple(msgspec.convert(record.get("images"), list[ImageEntry]))
    except msgspec.ValidationError as error:
        raise _fault(key, f"has no valid 'images' list: {error}") from error
    messages = _messages(key, record)
    _compare_members(key, [image.name for image in images], members)
    placeholders = count_placeholders(messages)
    if placeholders != len(images):
        raise _fault(
            key,
            f"has {placeholders} '{IMAGE_PLACEHOLDER}' in its user turns but {len(images)} images",
        )
    return SampleRecord(id=str(record["id"]), record=record, messages=messages, images=images)


def count_placeholders(messages: list[dict[str, Any]]) -> int:
    """How often `<image>` stands in the user turns of a conversation.

    Example:
        >>> count_placeholders([{"from": "human", "value": "<image> or <image>?"},
        ...                     {"from": "gpt", "value": "literally <image>"}])
        2
    """
    return sum(
        turn["value"].count(IMAGE_PLACEHOLDER) for turn in messages if turn["from"] in USER_ROLES
    )


def load_member(data: bytes) -> Any:
    """A JSON member as Python objects.

    msgspec refuses a few things that JSON allows and sources have, such as half a surrogate pair in
    a field that only passes through, or 1e400.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return json.loads(data.decode())


def _decode(key: str, data: bytes) -> dict[str, Any]:
    try:
        record = load_member(data)
    except (ValueError, RecursionError) as error:
        raise _fault(key, f"is no valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise _fault(key, f"holds a {type(record).__name__}, not a JSON object")
    return record


def _messages(key: str, record: dict[str, Any]) -> list[dict[str, Any]]:
    messages = record.get("conversations")
    if not isinstance(messages, list) or not messages:
        raise _fault(key, "has no 'conversations'")
    for number, turn in enumerate(messages):
        is_turn = isinstance(turn, dict) and isinstance(turn.get("from"), str)
        if not is_turn or not isinstance(turn.get("value"), str):
            raise _fault(key, f"has a turn {number} without 'from' and 'value' texts")
    return messages


def _compare_members(key: str, listed: list[str], members: Collection[str]) -> None:
    if len(set(listed)) < len(listed):
        raise _fault(key, "lists an image twice in 'images'")
    if missing := [name for name in listed if name not in members]:
        raise _fault(key, f"lists {', '.join(missing)}, which the shard does not have for it")
    if extra := [name for name in members if name not in listed]:
        raise _fault(key, f"has members that 'images' does not list: {', '.join(extra)}")


def _fault(key: str, finding: str) -> RecordError:
    return RecordError(
        f"sample {key}: its record {finding}; run neva-prep verify on the dataset, then convert "
        "again"
    )
