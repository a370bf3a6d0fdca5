"""Tokens from the Rust tokenizers: batches, with the place of every token."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from .chunk import Chunk, Encoded
from .listed import Listed, Span
from .literal import LiteralEncoder, encode_batch
from .marks import choose_marks
from .words import word_cache


class FastEncoder:
    """Many chunks in one call of the Rust tokenizer."""

    def __init__(self, backend: Any, special_tokens: set[str]) -> None:
        self._plain = copy.deepcopy(backend)
        # Post-processors add BOS and trim offsets; templates say where BOS goes.
        self._plain.post_processor = None
        self._plain.no_padding()
        self._plain.no_truncation()
        self._special_tokens = special_tokens
        self._literal: dict[str, LiteralEncoder] = {}
        self._doubles_space = _prepends_once(backend)
        self._words = word_cache(self._plain, partial(encode_batch, self._plain))

    def encode(self, chunks: Sequence[Chunk]) -> list[Encoded]:
        """Ids and offsets; only chunks with look-alikes take the longer way."""
        paddings = [self._padding(chunk) for chunk in chunks]
        texts = [
            padding + chunk.text
            for chunk, padding in zip(chunks, paddings, strict=True)
            if not chunk.data
        ]
        lengths = [
            len(padding) for chunk, padding in zip(chunks, paddings, strict=True) if not chunk.data
        ]
        plain = iter(self._encode_plainly(texts, lengths))
        return [
            self._encode_literally(chunk, padding) if chunk.data else next(plain)
            for chunk, padding in zip(chunks, paddings, strict=True)
        ]

    def _encode_plainly(self, texts: list[str], paddings: list[int]) -> Sequence[Encoded]:
        if self._words is not None:
            return self._words.encode(texts, paddings)
        return [
            Looked(encoding, len(text) - padding, padding)
            for encoding, text, padding in zip(
                encode_batch(self._plain, texts), texts, paddings, strict=True
            )
        ]

    def _padding(self, chunk: Chunk) -> str:
        """The space that SentencePiece puts before every text, also one that begins with a space.

        The Rust tokenizer leaves it out there; LLaVA's tokens after an image have it.
        """
        return " " if self._doubles_space and chunk.start and chunk.text[:1] == " " else ""

    def _encode_literally(self, chunk: Chunk, padding: str) -> Encoded:
        prefix = choose_marks(chunk.text).sentinel
        if prefix not in self._literal:
            self._literal[prefix] = LiteralEncoder(self._plain, self._special_tokens, prefix)
        return self._literal[prefix].encode(chunk, padding)


class Looked:
    """A chunk's tokens inside the Rust tokenizer, asked only for what is needed."""

    def __init__(self, encoding: Any, length: int, padding: int) -> None:
        self._encoding = encoding
        self._length = length
        self._padding = padding
        self.ids: list[int] = encoding.ids

    @property
    def offsets(self) -> list[Span]:
        """Character span of each token in the chunk."""
        offsets: list[Span] = self._encoding.offsets
        if not self._padding:
            return offsets
        return [(max(start - self._padding, 0), end - self._padding) for start, end in offsets]

    def touched(self, start: int, end: int) -> Span:
        """The tokens [first, last) that touch the characters [start, end).

        Two look-ups where tokens meet at both ends; all offsets in the rare other cases.
        """
        first, last = self._begins_at(start), self._begins_at(end)
        if first is None or last is None:
            return Listed(self.ids, self.offsets).touched(start, end)
        return first, last

    def _begins_at(self, place: int) -> int | None:
        """The token that begins at a character, if it alone does and none reaches across."""
        if place >= self._length:
            return len(self.ids)
        place += self._padding
        encoding = self._encoding
        token: int | None = encoding.char_to_token(place)
        if token is None or encoding.token_to_chars(token)[0] != place:
            return None
        if token:
            before = encoding.token_to_chars(token - 1)
            if before is None or before[1] > place or before[0] == place:
                return None
        return token


def _prepends_once(backend: Any) -> bool:
    """Whether a tokenizer puts a space before a text unless one is there."""
    pre_tokenizer = (
        json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer else {}
    )
    return (
        pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") == "first"
    )
