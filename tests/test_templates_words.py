"""The word cache: small, and safe to share."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from neva_prep.templates import words
from neva_prep.templates.listed import Span
from neva_prep.templates.words import WordCache


@dataclass(frozen=True)
class Letters:
    """A text's letters as its tokens."""

    ids: list[int]
    offsets: list[Span]


def letters(texts: Sequence[str]) -> list[Letters]:
    return [
        Letters([ord(letter) for letter in text], [(i, i + 1) for i in range(len(text))])
        for text in texts
    ]


def cache_of(encode_batch: Callable[[list[str]], list[Letters]]) -> WordCache:
    return WordCache(encode_batch, is_safe=words._after_word, odd=re.compile("▁"))


def spelt(cache: WordCache, text: str) -> str:
    return "".join(map(chr, cache.encode([text], [0])[0].ids))


@pytest.mark.parametrize("length", [40, 41, 5000])
def test_long_words_are_not_kept(length: int) -> None:
    asked: list[str] = []

    def listed(texts: list[str]) -> list[Letters]:
        asked.extend(texts)
        return letters(texts)

    cache = cache_of(listed)
    text = "I say " + "字" * (length - 1)
    assert [spelt(cache, text) for _ in range(3)] == [text] * 3
    assert asked.count(" " + "字" * (length - 1)) == (1 if length == 40 else 3)
    assert asked.count(" say") == 1


def test_many_words_of_the_greatest_length_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_CHARS", 1000)
    cache = cache_of(letters)
    for number in range(500):
        text = f"{number:040}"
        assert spelt(cache, text) == text
        assert sum(map(len, cache._known.ids)) <= 1040


def test_another_thread_that_empties_the_cache_meanwhile_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(words, "MAX_WORDS", 2)

    def interrupted(texts: list[str]) -> list[Letters]:
        if "first" in texts:
            assert spelt(cache, "of another thread") == "of another thread"
        return letters(texts)

    cache = cache_of(interrupted)
    assert spelt(cache, "first of all") == "first of all"
