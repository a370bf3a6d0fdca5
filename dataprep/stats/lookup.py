"""Reading a text again by its place and its hash, since counting keeps no text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...loaders.members import USER_ROLES
from ...loaders.remote_shard import open_shard
from .count import ANSWER_ROLES, text_hash
from .item import plain_answer, plain_question

_WINDOW = 64 << 10
# Python refuses to parse integers of more than 4,300 digits; here they are only skipped.
_decoder = json.JSONDecoder(parse_int=str)


def find_text(
    path: Path, offset: int, wanted: int, texts_of: Callable[[Any], Iterable[str]]
) -> str | None:
    """The text of a record that has a hash; None where it is not there any more.

    Args:
        path: a source or a shard.
        offset: where the record's JSON begins in it.
        wanted: the hash.
        texts_of: gives the texts of a record that come into question.
    """
    try:
        texts = list(texts_of(_record_at(path, offset)))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    found = (text for text in texts if text_hash(text) == wanted)
    return next(found, None)


def questions_of(record: Any) -> Iterator[str]:
    """The questions of a record, as they are counted."""
    return (plain_question(turn) for turn in _values(record, USER_ROLES))


def answers_of(record: Any) -> Iterator[str]:
    """The answers of a record, as they are counted."""
    return (plain_answer(turn) for turn in _values(record, ANSWER_ROLES))


def image_paths_of(record: Any) -> Iterator[str]:
    """The image paths of a record: of a source, or of a dataset."""
    for field in ("images", "image"):
        given = record.get(field)
        for image in given if isinstance(given, list) else [given]:
            path = image.get("source") if isinstance(image, dict) else image
            if isinstance(path, str):
                yield path


def _values(record: Any, roles: Iterable[str]) -> list[str]:
    return [turn["value"] for turn in record["conversations"] if turn["from"] in roles]


def _record_at(path: Path, offset: int) -> Any:
    size = _WINDOW
    with open_shard(path) as file:
        while True:
            file.seek(offset)
            window = file.read(size)
            try:
                return _decoder.raw_decode(window.decode("utf-8", "surrogateescape"))[0]
            except ValueError:
                if len(window) < size:
                    raise
            size *= 8
