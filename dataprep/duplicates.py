"""duplicates.jsonl: every record that was left out for another's sake, pair by pair."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import msgspec

from .files import publish, temporary, told

WHY = {
    "exact": "same texts and same image files",
    "exact_images": "same image files",
    "perceptual": "same texts, and images that look alike",
    "perceptual_images": "images that look alike",
    "exclude_image": "an image of an evaluation set",
    "exclude_question": "a question of an evaluation set",
}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a record stands."""

    source: str
    """File name of the source, or folder name of the dataset."""
    index: int
    """In its source, from 0."""
    id: str | int | float | None = None


class Pair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row of duplicates.jsonl."""

    removed: Place
    kept: Place
    """What it is like; of an evaluation set, what must not be trained on."""
    why: str
    """One of WHY."""
    bits: int = 0
    """Of 64, in which images that look alike differ at most."""
    what: str = ""
    """The image's path or the question that an evaluation set has too."""


def write_pairs(
    path: Path, pairs: Iterable[Pair], *, before: Iterable[Pair], tried: Container[int] | None
) -> None:
    """Write duplicates.jsonl, however long.

    Args:
        path: the file.
        pairs: its rows.
        before: rows that a dataset has already.
        tried: records of which those are forgotten; None for all.

    Raises:
        ShardError: the disk refuses.
    """
    rows = pairs if tried is None else _merged(before, list(pairs), tried)
    with told(path):
        with temporary(path).open("wb") as file:
            file.writelines(msgspec.json.encode(pair) + b"\n" for pair in rows)
            file.flush()
            os.fsync(file.fileno())
        publish(path)


def read_pairs(path: Path) -> Iterator[Pair]:
    """Rows of duplicates.jsonl; none where there is no such file.

    Raises:
        ShardError: it cannot be read.
    """
    if path.exists():
        with told(path, "read"), path.open("rb") as file:
            yield from map(msgspec.json.Decoder(Pair).decode, file)


def _merged(before: Iterable[Pair], pairs: list[Pair], tried: Container[int]) -> list[Pair]:
    rows = [*(pair for pair in before if pair.removed.index not in tried), *pairs]
    return sorted(rows, key=lambda pair: pair.removed.index)
