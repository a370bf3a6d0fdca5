"""What tokenizing takes and gives: pieces of text, and their tokens with places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .listed import Span


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text between two images."""

    text: str
    start: int = 0
    """Where the chunk begins in the rendered text."""
    data: tuple[Span, ...] = ()
    """Character spans in the chunk that look like special tokens but are content."""


class Encoded(Protocol):
    """A chunk's tokens, and where they stand."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""
        ...

    @property
    def offsets(self) -> list[Span]:
        """Character span of each token in the chunk."""
        ...

    def touched(self, start: int, end: int) -> Span:
        """The tokens [first, last) that touch the characters [start, end)."""
        ...


class TextEncoder(Protocol):
    """Turns chunks into ids with offsets; knows what the tokenizer treats as structure."""

    def encode(self, chunks: Sequence[Chunk]) -> list[Encoded]:
        """One answer a chunk."""
        ...
