"""Tokens of text in which some look-alikes of special tokens are content."""

from __future__ import annotations

import copy
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from ..errors import TemplateError
from .chunk import Chunk
from .listed import Listed, Span


class LiteralEncoder:
    """A Rust tokenizer that reads special tokens as text, and stand-ins as special tokens.

    The text is encoded whole, so that content merges with its neighbours as everywhere else.
    """

    def __init__(self, plain: Any, special_tokens: set[str], prefix: str) -> None:
        from tokenizers import AddedToken

        self._tokenizer = copy.deepcopy(plain)
        added = self._tokenizer.get_added_tokens_decoder()
        specials = {
            number: token
            for number, token in added.items()
            if token.special or token.content in special_tokens
        }
        # Those that a tokenizer merely lists are made special, or they would still be matched.
        self._tokenizer.add_special_tokens(list(specials.values()))
        self._stand_in = {
            token.content: f"{prefix}{number}{prefix}" for number, token in specials.items()
        }
        self._seam = f"{prefix}seam{prefix}"
        self._tokenizer.add_tokens(
            [
                AddedToken(
                    self._stand_in[token.content],
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                    normalized=False,
                )
                for token in specials.values()
            ]
            + [AddedToken(self._seam, normalized=False)]
        )
        self._tokenizer.encode_special_tokens = True
        self._real_id = {
            self._tokenizer.token_to_id(self._stand_in[token.content]): number
            for number, token in specials.items()
        }
        self._real_id[self._tokenizer.token_to_id(self._seam)] = -1
        self._structure = any_of(self._stand_in)

    def encode(self, chunk: Chunk, padding: str) -> Listed:
        """Ids and offsets of a chunk with look-alikes."""
        pieces = [(padding, (0, 0)), *self._pieces(chunk)]
        (encoding,) = encode_batch(self._tokenizer, ["".join(text for text, _ in pieces)])
        places = [0, *accumulate(len(text) for text, _ in pieces)]

        def source(place: int) -> int:
            """The character of the chunk that a character of the encoded text stands for."""
            piece = bisect_right(places, place) - 1
            if piece == len(pieces):
                return len(chunk.text)
            start, end = pieces[piece][1]
            return min(start + place - places[piece], end)

        encoded = Listed([], [])
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            real = self._real_id.get(token, token)
            if real >= 0:
                encoded.ids.append(real)
                encoded.offsets.append((source(start), source(end)))
        return encoded

    def _pieces(self, chunk: Chunk) -> Iterator[tuple[str, Span]]:
        """What to encode, and the span of the chunk that each piece stands for."""
        cursor = 0
        for start, end in (*chunk.data, (len(chunk.text), len(chunk.text))):
            for match in self._structure.finditer(chunk.text, cursor, start):
                yield chunk.text[cursor : match.start()], (cursor, match.start())
                yield self._stand_in[match[0]], match.span()
                cursor = match.end()
            if cursor < start:
                yield chunk.text[cursor:start], (cursor, start)
            if start < end:
                yield from self._data_pieces(chunk.text[start:end], start)
            cursor = end

    def _data_pieces(self, text: str, start: int) -> Iterator[tuple[str, Span]]:
        """A look-alike, cut once where the model itself would spell the special token."""
        leaks = self._tokenizer.token_to_id(text) in self._tokenizer.encode(text).ids
        cut = 1 if leaks else len(text)
        yield text[:cut], (start, start + cut)
        if leaks:
            yield self._seam, (start + cut, start + cut)
            yield text[cut:], (start + cut, start + len(text))


def encode_batch(tokenizer: Any, texts: list[str]) -> list[Any]:
    """Encodings of many texts.

    Raises:
        TemplateError: a text is not Unicode.
    """
    if not texts:
        return []
    try:
        return list(tokenizer.encode_batch(texts, add_special_tokens=False))
    except (TypeError, UnicodeEncodeError) as error:
        raise TemplateError(
            "the text has a lone surrogate, which no tokenizer takes; repair the record's encoding"
        ) from error


def any_of(texts: Sequence[str] | dict[str, Any]) -> re.Pattern[str]:
    """A pattern that takes the longest of some texts; nothing if there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
