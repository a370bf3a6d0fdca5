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
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any

from .listed import Listed, Span

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
        return WordCache(encode_batch, is_safe=_after_word, odd=re.compile("▁| $"))
    if _is_byte_level(state):
        return WordCache(encode_batch, is_safe=_between_words, odd=re.compile(r"[^\S ]| $"))
    return None


class Worded:
    """A text's tokens, word by word."""

    def __init__(self, words: list[Listed], lengths: list[int], padding: int) -> None:
        self._words = words
        self._padding = padding
        self._places = [0, *accumulate(lengths)]
        self.ids: list[int] = list(chain.from_iterable([word.ids for word in words]))
        self._counts: list[int] | None = None

    @property
    def offsets(self) -> list[Span]:
        """Character span of each token in the text."""
        return [
            (max(place + start - self._padding, 0), place + end - self._padding)
            for word, place in zip(self._words, self._places, strict=False)
            for start, end in word.offsets
        ]

    def touched(self, start: int, end: int) -> Span:
        """The tokens [first, last) that touch the characters [start, end)."""
        if self._counts is None:
            self._counts = [0, *accumulate([len(word.ids) for word in self._words])]
        return self._token(start, first=True), self._token(end, first=False)

    def _token(self, place: int, *, first: bool) -> int:
        """The first token that reaches beyond a place, or that begins there or after it."""
        assert self._counts is not None
        place += self._padding
        word = bisect_right(self._places, place) - 1
        if word >= len(self._words):
            return self._counts[-1]
        inner = place - self._places[word]
        if inner == 0:
            return self._counts[word]
        touched = self._words[word].touched(inner, inner)
        return self._counts[word] + touched[0 if first else 1]


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
        self._known: dict[str, Listed] = {}
        self._num_chars = 0

    def encode(self, texts: Sequence[str], paddings: Sequence[int]) -> list[Worded]:
        """Tokens of each text; the first `padding` characters are not counted in offsets."""
        cut = [self._cut(text) for text in texts]
        # Taken once: another thread may start the cache afresh meanwhile.
        known = self._known
        # Not a set less the known keys: that walks through all that is known for every call.
        fresh = self._ask({word for words in cut for word in words if word not in known})
        short = {word: tokens for word, tokens in fresh.items() if len(word) <= MAX_WORD_CHARS}
        known.update(short)
        if len(short) == len(fresh):
            found = [[known[word] for word in words] for words in cut]
        else:
            found = [[fresh.get(word) or known[word] for word in words] for words in cut]
        self._num_chars += sum(map(len, short))
        if len(known) > MAX_WORDS or self._num_chars > MAX_CHARS:
            self._known, self._num_chars = {}, 0
        return [
            Worded(listed, [len(word) for word in words], padding)
            for listed, words, padding in zip(found, cut, paddings, strict=True)
        ]

    def _cut(self, text: str) -> list[str]:
        """Words with the space before them; spaces that must not be cut at stay inside."""
        first, *rest = text.split(" ")
        if first and "  " not in text and not self._odd.search(text):
            return [first, *[" " + word for word in rest]]
        words = [first]
        for word in rest:
            if self._is_safe(words[-1], word):
                words.append(" " + word)
            else:
                words[-1] += " " + word
        return words

    def _ask(self, unknown: set[str]) -> dict[str, Listed]:
        if not unknown:
            return {}
        texts = list(unknown)
        return {
            text: Listed(encoding.ids, encoding.offsets)
            for text, encoding in zip(texts, self._encode_batch(texts), strict=True)
        }


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
