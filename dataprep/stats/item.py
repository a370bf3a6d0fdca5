"""What is counted: a record with its texts and images, or the reason why one is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...loaders.format import IMAGE_PLACEHOLDER
from ...loaders.turns import Turn


class Picture(NamedTuple):
    """An image of a record; 0 stands for what is not known."""

    path: str
    """As the source gives it."""
    extension: str
    """What the file is; what its path claims, where the file is not looked at."""
    width: int = 0
    height: int = 0
    num_bytes: int = 0


class Item(NamedTuple):
    """A record that counts."""

    key: str
    """For messages."""
    place: int
    """Where it lies; see lookup.py."""
    num_bytes: int
    """Of its JSON."""
    turns: Sequence[Turn]
    pictures: Sequence[Picture]


class LeftOut(NamedTuple):
    """A record that does not count."""

    reason: str
    message: str


def plain_question(value: str) -> str:
    """The text of a question: where its images stand makes no difference."""
    return value.replace(IMAGE_PLACEHOLDER, "").strip()


def plain_answer(value: str) -> str:
    """The text of an answer."""
    return value.strip()
