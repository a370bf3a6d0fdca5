"""Characters that stand for structure while a template renders, and text that must stay data.

Content goes into the template with its images and its look-alikes of special tokens replaced by
marks. What the rendered text shows of them afterwards is content; every other special token in it
was written by the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ..errors import TemplateError

PLANE = range(0xF0000, 0xFFFF0, 16)
_PRIVATE = re.compile("[\U000f0000-\U000fffff]")


@dataclass(frozen=True, slots=True)
class Marks:
    """Private-use characters that occur nowhere in a conversation."""

    base: int = PLANE.start

    @property
    def slot(self) -> str:
        """Stands for an image."""
        return chr(self.base)

    @property
    def data(self) -> str:
        """Stands before and after the number of a look-alike."""
        return chr(self.base + 1)

    def are_escaped_in(self, text: str) -> bool:
        """Whether a text has the mark of a look-alike as Python or ASCII JSON spells it."""
        return repr(self.data)[1:-1] in text or json.dumps(self.data)[1:-1] in text

    @property
    def open(self) -> str:
        """Begins a trained span."""
        return chr(self.base + 2)

    @property
    def close(self) -> str:
        """Ends a trained span."""
        return chr(self.base + 3)

    @property
    def sentinel(self) -> str:
        """Begins the stand-in of a special token, for the tokenizer."""
        return chr(self.base + 4)


DEFAULT = Marks()


def choose_marks(joined: str) -> Marks:
    """Marks that a text does not contain.

    Raises:
        TemplateError: the text uses every block of the private plane.
    """
    if joined.isascii() or not _PRIVATE.search(joined):
        return DEFAULT
    used = {(ord(char) - PLANE.start) // 16 for char in _PRIVATE.findall(joined)}
    for number, base in enumerate(PLANE):
        if number not in used:
            return Marks(base)
    raise TemplateError("the conversation uses all private characters; it is no text")


@dataclass(frozen=True, slots=True)
class Specials:
    """What a tokenizer treats as structure."""

    image_token: str = "<image>"
    protected: tuple[str, ...] = ()
    """Texts of special tokens; in content they are data."""
    added: tuple[str, ...] = ()
    """Texts of tokens that were added and are not special: structure where a template writes them,
    as DeepSeek's `<|User|>`, and otherwise words like any other."""
    sought: tuple[str, ...] = ()
    """Those of `protected` that the template itself looks for in an answer, as Qwen3's `</think>`:
    in an answer they are structure."""
    bos_token: str | None = None
    eos_token: str | None = None


class Protector:
    """Replaces look-alikes of special tokens in content, and remembers what each one was."""

    def __init__(self, specials: Specials, marks: Marks) -> None:
        self._starts, self._pattern = _look_alikes(specials)
        _, self._in_answers = _look_alikes(without_sought(specials))
        self._mark = marks.data
        self.found: list[str] = []
        """The replaced texts, by number."""

    def may_find(self, text: str) -> bool:
        """Whether there is anything to look for in a text."""
        return any(start in text for start in self._starts)

    def protect(self, text: str) -> str:
        """The text with each look-alike replaced by its number between two marks."""
        return self._pattern.sub(self._replace, text) if self.may_find(text) else text

    def protect_answer(self, text: str) -> str:
        """The same for an answer, in which the template may look for structure itself."""
        return self._in_answers.sub(self._replace, text) if self.may_find(text) else text

    def protect_all(self, value: Any) -> Any:
        """The same for every string in nested lists and mappings."""
        if isinstance(value, str):
            return self.protect(value)
        if isinstance(value, Mapping):
            return {self.protect_all(key): self.protect_all(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect_all(inner) for inner in value]
        return value

    def _replace(self, match: re.Match[str]) -> str:
        self.found.append(match[0])
        return f"{self._mark}{len(self.found) - 1}{self._mark}"


def without_sought(specials: Specials) -> Specials:
    """What is structure in an answer: what the template looks for there is none of it."""
    if not specials.sought:
        return specials
    left = tuple(text for text in specials.protected if text not in specials.sought)
    return replace(specials, protected=left)


@lru_cache(maxsize=64)
def _look_alikes(specials: Specials) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """Short beginnings to look for first, and a pattern that takes the longest match."""
    texts = sorted({specials.image_token, *specials.protected} - {""}, key=len, reverse=True)
    starts = tuple(sorted({text[:1] for text in texts}))
    return starts, re.compile("|".join(map(re.escape, texts)))
