"""Reading a text again by its place and its hash, since counting keeps no text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import RecordError
from ...loaders.members import USER_ROLES
from ...loaders.remote_shard import open_shard
from ..source import Source
from .count import ANSWER_ROLES, text_hash
from .item import plain_answer, plain_question

_WINDOW = 64 << 10
_UNREADABLE = (RecordError, OSError, ValueError, RecursionError, LookupError, TypeError)
# Python refuses to parse integers of more than 4,300 digits; here they are only skipped.
_decoder = json.JSONDecoder(parse_int=str)


class Told(NamedTuple):
    """What a record says, read again."""

    turns: Sequence[tuple[str, str]]
    """Role and text of each."""
    images: Sequence[str]
    """Paths."""


def find_text(
    read: Callable[[], Told], wanted: int, texts_of: Callable[[Told], Iterable[str]]
) -> str | None:
    """The text of a record that has a hash; None where it is not there any more.

    Args:
        read: reads the record.
        wanted: the hash.
        texts_of: gives the texts of a record that come into question.
    """
    try:
        texts = list(texts_of(read()))
    except _UNREADABLE:
        return None
    found = (text for text in texts if text_hash(text) == wanted)
    return next(found, None)


def told_by_source(source: Source, offset: int) -> Told:
    """A record of a source, of whatever form, by the offset of its JSON.

    Raises:
        RecordError, ValueError, RecursionError: it cannot be read.
    """
    text, end = _window(lambda size: source.data[offset : offset + size])
    found = source.reader()(text[:end].encode("utf-8", "surrogateescape")).record
    return Told([(turn.role, turn.value) for turn in found.turns], found.images)


def told_by_shard(shard: Path, offset: int) -> Told:
    """A sample of a shard, by the offset of its JSON member.

    Raises:
        OSError, ValueError, RecursionError, LookupError, TypeError: it cannot be read.
    """
    with open_shard(shard) as file:

        def first(size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        text, end = _window(first)
    record = _decoder.decode(text[:end])
    turns = [(turn["from"], turn["value"]) for turn in record["conversations"]]
    return Told(turns, [image["source"] for image in record["images"]])


def questions_of(record: Told) -> Iterator[str]:
    """The questions of a record, as they are counted."""
    return (plain_question(value) for role, value in record.turns if role in USER_ROLES)


def answers_of(record: Told) -> Iterator[str]:
    """The answers of a record, as they are counted."""
    return (plain_answer(value) for role, value in record.turns if role in ANSWER_ROLES)


def image_paths_of(record: Told) -> Sequence[str]:
    """The image paths of a record."""
    return record.images


def _window(first: Callable[[int], Any]) -> tuple[str, int]:
    """A text that begins with a JSON value, and where that ends in it.

    Args:
        first: gives so many bytes of it, from the begin of the value.
    """
    size = _WINDOW
    while True:
        window = first(size)
        text = window.decode("utf-8", "surrogateescape")
        try:
            return text, _decoder.raw_decode(text)[1]
        except ValueError:
            if len(window) < size:
                raise
        size *= 8
