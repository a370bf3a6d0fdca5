"""A tokenizer's answers by word, kept: most of the time goes to words that were seen before.

A text may be cut before a space when no token can reach across the cut. That is known for two
families, and checked when the cache is made; other tokenizers get none:

- SentencePiece-like BPE (Llama, Mistral), when no piece of the vocabulary has a space after
  another character: no merge can then join them.
- Byte-level BPE with the word patterns of GPT-2, Llama 3 or Qwen 2: none of their alternatives
  matches a space after anything but white space.
"""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from .listed import Span, touched

MAX_WORDS = 100_000
"""Words kept; beyond it the cache starts afresh."""
MAX_CHARS = 1_000_000
"""Characters of the words kept: a token's place takes a hundred bytes."""
MAX_WORD_CHARS = 40
"""Longer words hardly come back: they are whole sentences of a script without spaces."""

_GPT_2 = {"type": "ByteLevel", "use_regex": True}
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_PATTERNS = {
    _CONTRACTIONS
    + rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|"
    + r"\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
}


def word_cache(tokenizer: Any, encode_batch: Callable[[list[str]], list[Any]]) -> WordCache | None:
    """The cache for a tokenizer, or None where cutting before spaces is not known to be safe.

    Args:
        tokenizer: of the Rust library, without a post-processor.
        encode_batch: its encodings of many texts.
    """
    state = json.loads(tokenizer.to_str())
    if state["model"].get("type") != "BPE" or state["model"].get("dropout"):
        return None
    # A token that strips or holds spaces would reach across the cut.
    for token in state["added_tokens"]:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            return None
        if " " in token["content"].lstrip(" "):
            return None
    if _is_metaspace(state):
        return WordCache(encode_batch, is_safe=_after_word, odd=re.compile("▁"))
    if _is_byte_level(state):
        return WordCache(encode_batch, is_safe=_between_words, odd=re.compile(r"[^\S ]"))
    return None


@dataclass(frozen=True, slots=True)
class _Known:
    """Words and their tokens."""

    ids: dict[str, bytes] = field(default_factory=dict)
    """Ids as int64, to be joined."""
    offsets: dict[str, list[Span]] = field(default_factory=dict)
    """Character span of each token in its word."""

    def add(self, word: str, encoding: Any) -> None:
        """Take a word as the tokenizer encodes it."""
        # The ids last: another thread that finds them finds the places, too.
        self.offsets[word] = encoding.offsets
        self.ids[word] = array("q", encoding.ids).tobytes()

    def look_up(self, texts: Sequence[list[str]], paddings: Sequence[int]) -> list[Worded]:
        """Tokens of texts that were cut into words.

        Raises:
            KeyError: a word is not known.
        """
        return [
            Worded(words, self, padding) for words, padding in zip(texts, paddings, strict=True)
        ]


class Worded:
    """A text's tokens, word by word."""

    def __init__(self, words: list[str], known: _Known, padding: int) -> None:
        self._words = words
        self._ids = list(map(known.ids.__getitem__, words))
        self._offsets = known.offsets
        self._padding = padding
        self._places: list[int] = []
        self._sizes: list[int] = []
        self.ids = array("q", b"".join(self._ids))

    @property
    def offsets(self) -> list[Span]:
        """Character span of each token in the text."""
        places = accumulate(map(len, self._words), initial=-self._padding)
        return [
            (max(place + start, 0), place + end)
            for word, place in zip(self._words, places, strict=False)
            for start, end in self._offsets[word]
        ]

    def touched(self, start: int, end: int) -> Span:
        """The tokens [first, last) that touch the characters [start, end)."""
        if not self._places:
            self._places = list(accumulate(map(len, self._words), initial=0))
            self._sizes = list(accumulate(map(len, self._ids), initial=0))
        return self._token(start, first=True), self._token(end, first=False)

    def _token(self, place: int, *, first: bool) -> int:
        """The first token that reaches beyond a place, or that begins there or after it."""
        place += self._padding
        word = bisect_right(self._places, place) - 1
        before = self._sizes[word] // self.ids.itemsize
        inner = place - self._places[word]
        if inner == 0 or word == len(self._words):
            return before
        return before + touched(self._offsets[self._words[word]], inner, inner)[0 if first else 1]


class WordCache:
    """Tokens of words, asked from the tokenizer once."""

    def __init__(
        self,
        encode_batch: Callable[[list[str]], list[Any]],
        is_safe: Callable[[str, str], bool],
        odd: re.Pattern[str],
    ) -> None:
        """Take what decides about a cut: `is_safe`, where `odd` characters make it a question."""
        self._encode_batch = encode_batch
        self._odd = odd
        self._is_safe = is_safe
        self._known = _Known()
        self._num_chars = 0

    def encode(self, texts: Sequence[str], paddings: Sequence[int]) -> list[Worded]:
        """Tokens of each text; the first `padding` characters are not counted in offsets."""
        cut = [self._cut(text) for text in texts]
        # Taken once: another thread may start the cache afresh meanwhile.
        known = self._known
        with suppress(KeyError):
            return known.look_up(cut, paddings)
        known = self._learn({word for words in cut for word in words}, known)
        return known.look_up(cut, paddings)

    def _cut(self, text: str) -> list[str]:
        """Words with the space before them; spaces that must not be cut at stay inside."""
        if "\0" not in text and not self._odd.search(text):
            # Cut at a mark before each space: the words then have their spaces already.
            words = text.replace(" ", "\0 ").split("\0")
            if words[0] and " " not in words:
                return words
        first, *rest = text.split(" ")
        words = [first]
        for word in rest:
            if self._is_safe(words[-1], word):
                words.append(" " + word)
            else:
                words[-1] += " " + word
        return words

    def _learn(self, words: set[str], known: _Known) -> _Known:
        """The words with their tokens; those that may come back are kept."""
        unknown = [word for word in words if word not in known.ids]
        encoded = dict(zip(unknown, self._encode_batch(unknown), strict=True))
        long = {word for word in unknown if len(word) > MAX_WORD_CHARS}
        for word in encoded.keys() - long:
            known.add(word, encoded[word])
            self._num_chars += len(word)
        if len(known.ids) > MAX_WORDS or self._num_chars > MAX_CHARS:
            self._known, self._num_chars = _Known(), 0
        if not long:
            return known
        others = words - long
        found = _Known(
            {word: known.ids[word] for word in others},
            {word: known.offsets[word] for word in others},
        )
        for word in long:
            found.add(word, encoded[word])
        return found


def _after_word(before: str, _: str) -> bool:
    return before[-1:] not in ("", " ", "▁")


def _between_words(before: str, after: str) -> bool:
    return not (before[-1:] or " ").isspace() and not (after[:1] or " ").isspace()


def _is_metaspace(state: dict[str, Any]) -> bool:
    scheme, model = state["pre_tokenizer"] or {}, state["model"]
    vocabulary = model["vocab"]
    return (
        scheme.get("type") == "Metaspace"
        and scheme["replacement"] == "▁"
        and scheme["prepend_scheme"] in ("first", "never")
        and state["normalizer"] is None
        # Unknown characters beside each other may fuse; with all bytes there are none.
        and bool(model.get("byte_fallback"))
        and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
        and not any("▁" in piece.lstrip("▁") for piece in vocabulary)
    )


def _is_byte_level(state: dict[str, Any]) -> bool:
    scheme, normalizer = state["pre_tokenizer"] or {}, state["normalizer"] or {"type": "NFC"}
    if normalizer["type"] != "NFC":
        return False
    if scheme.get("type") == "ByteLevel":
        return bool(scheme["use_regex"])
    steps = scheme.get("pretokenizers", [])
    return (
        [step["type"] for step in steps] == ["Split", "ByteLevel"]
        and steps[0]["pattern"].get("Regex") in _PATTERNS
        and steps[0]["behavior"] == "Isolated"
        and not steps[0]["invert"]
        and not steps[1]["use_regex"]
    )
