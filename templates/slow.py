"""Tokens from tokenizers that cannot tell places: one run of text at a time, spelled out."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from ..errors import TemplateError
from .align import align_tokens
from .chunk import Chunk, Encoded
from .listed import Listed, Span
from .literal import any_of


class SlowEncoder:
    """Special tokens by name, the text between them by `encode`, places by spelling out."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = weakref.proxy(tokenizer)
        names = [str(text) for text in tokenizer.all_special_tokens if str(text)]
        self._special = dict(zip(names, tokenizer.convert_tokens_to_ids(names), strict=True))
        self._structure = any_of(self._special)

    def encode(self, chunks: Sequence[Chunk]) -> list[Encoded]:
        """Ids and offsets, one run of text at a time."""
        return [self._encode(chunk) for chunk in chunks]

    def _encode(self, chunk: Chunk) -> Encoded:
        encoded = Listed([], [])
        cursor = 0
        for match in self._structure.finditer(chunk.text):
            if any(start < match.end() and match.start() < end for start, end in chunk.data):
                continue
            self._encode_run(chunk.text, (cursor, match.start()), encoded)
            encoded.ids.append(self._special[match[0]])
            encoded.offsets.append(match.span())
            cursor = match.end()
        self._encode_run(chunk.text, (cursor, len(chunk.text)), encoded)
        return encoded

    def _encode_run(self, text: str, span: Span, encoded: Listed) -> None:
        run = text[span[0] : span[1]]
        if not run:
            return
        try:
            run.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TemplateError(
                "the text has a lone surrogate, which no tokenizer takes; "
                "repair the record's encoding"
            ) from error
        ids = self._ids(run)
        spans = align_tokens(self._tokenizer, ids, run)
        if spans is None:
            raise TemplateError(
                f"{type(self._tokenizer).__name__}: cannot tell where the tokens of {run[:60]!r} "
                "stand; use the fast version of this tokenizer"
            )
        encoded.ids.extend(ids)
        encoded.offsets.extend((span[0] + start, span[0] + end) for start, end in spans)

    def _ids(self, run: str) -> list[int]:
        """Ids of text in which nothing is special."""
        if not self._structure.search(run):
            return list(self._tokenizer.encode(run, add_special_tokens=False))
        try:
            ids = self._tokenizer.encode(run, add_special_tokens=False, split_special_tokens=True)
        except (TypeError, ValueError):
            # Some tokenizers never read special tokens in text, and refuse the option.
            ids = self._tokenizer.encode(run, add_special_tokens=False)
        if not set(self._special.values()).isdisjoint(ids):
            raise TemplateError(
                f"{type(self._tokenizer).__name__}: makes a special token of the plain text "
                f"{run[:60]!r}; use the fast version of this tokenizer or clean the text"
            )
        return list(ids)
