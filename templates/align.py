"""Where each token of a text stands, for tokenizers that cannot say.

The tokens are spelled out as bytes and laid along the text; every byte must agree. Three ways of
spelling are tried: SentencePiece pieces, byte-level characters, decoding a few tokens at a time.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

Span = tuple[int, int]
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MAX_TOKENS_PER_CHARACTER = 32


def align_tokens(tokenizer: Any, ids: Sequence[int], text: str) -> list[Span] | None:
    """Character span of each token.

    Args:
        tokenizer: gives `convert_ids_to_tokens` and `decode`.
        ids: tokens of the text, without special ones.
        text: what was encoded.

    Returns:
        One span [start, end) a token; tokens that share a character share its span; a prefix that
        is not in the text has an empty span at 0. None when no spelling fits.
    """
    target = text.encode("utf-8")
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    for spell in (_spell_sentencepiece, _spell_byte_level):
        spelled = [part for part in map(spell, pieces) if part is not None]
        if len(spelled) == len(pieces):
            spans = _lay(b"".join(spelled), [len(part) for part in spelled], target)
            if spans is not None:
                return _to_characters(spans, text)
    return _align_by_decoding(tokenizer.decode, list(ids), text)


def _lay(spelled: bytes, lengths: list[int], target: bytes) -> list[Span] | None:
    """Byte spans if the spelling is the text, or the text after a space that was put in front."""
    if spelled == target:
        shift = 0
    elif spelled == b" " + target:
        shift = 1
    else:
        return None
    ends = [max(end - shift, 0) for end in accumulate(lengths)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _to_characters(spans: list[Span], text: str) -> list[Span]:
    """Byte spans as character spans, widened to whole characters."""
    if text.isascii():
        return spans
    starts = [0, *accumulate(len(char.encode("utf-8")) for char in text)]
    return [
        (bisect_right(starts, start) - 1, bisect_left(starts, end)) if end > start else (0, 0)
        for start, end in spans
    ]


def _spell_sentencepiece(piece: str) -> bytes | None:
    match = _BYTE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode("utf-8")


def _spell_byte_level(piece: str) -> bytes | None:
    alphabet = _byte_alphabet()
    try:
        return bytes(alphabet[char] for char in piece)
    except KeyError:
        return None


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte, back to the byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + number): byte for number, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


def _align_by_decoding(
    decode: Callable[[list[int]], str], ids: list[int], text: str
) -> list[Span] | None:
    """Groups of tokens whose decoding continues the text; a group shares one span."""
    spans: list[Span] = []
    start = place = 0
    while start < len(ids):
        for end in range(start + 1, min(start + MAX_TOKENS_PER_CHARACTER, len(ids)) + 1):
            piece = decode(ids[start:end])
            if piece and text.startswith(piece, place):
                break
        else:
            return None
        spans += [(place, place + len(piece))] * (end - start)
        start, place = end, place + len(piece)
    return spans if place == len(text) else None
