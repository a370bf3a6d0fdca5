"""The rendered text, read: marks become plain text and spans."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ..errors import TemplateError
from .listed import Span
from .marks import Marks


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text that a model reads, and what in it is what."""

    text: str
    trained: tuple[Span, ...]
    """Character spans [start, end) where loss is taken, in order."""
    images: tuple[Span, ...] = ()
    """Character spans of the image placeholders that are images."""
    data: tuple[Span, ...] = ()
    """Character spans of content that only looks like a special token or an image."""
    events: Mapping[str, int] = field(default_factory=dict)
    """Reason code -> how often, for everything that was dropped or escaped."""

    @property
    def trained_texts(self) -> list[str]:
        """The text of each trained span."""
        return [self.text[start:end] for start, end in self.trained]


def read_marks(raw: str, marks: Marks, found: list[str], image_token: str, name: str) -> Rendered:
    """Marked text becomes plain text and spans."""
    # In content the placeholder is a mark or a number by now: these were written by the template.
    raw = raw.replace(image_token, marks.slot) if image_token in raw else raw
    opening, closing, slot = marks.open, marks.close, marks.slot
    pieces = _mark_pattern(marks).split(raw)
    trained: list[Span] = []
    images: list[Span] = []
    data: list[Span] = []
    length = len(pieces[0])
    depth = opened = 0
    for number in range(1, len(pieces), 2):
        mark = pieces[number]
        start = length
        if mark == opening:
            opened = opened if depth else start
            depth += 1
            pieces[number] = ""
        elif mark == closing:
            depth -= 1
            if depth < 0:
                break
            if depth == 0 and start > opened:
                trained.append((opened, start))
            pieces[number] = ""
        elif mark == slot:
            pieces[number] = image_token
            length += len(image_token)
            images.append((start, length))
        else:
            pieces[number] = _look_alike(mark, marks, found, name)
            length += len(pieces[number])
            data.append((start, length))
        length += len(pieces[number + 1])
    if depth:
        raise TemplateError(
            f"template {name!r}: {{% generation %}} at character {opened} is not closed once; "
            "do not break, continue or slice inside it"
        )
    return Rendered("".join(pieces), tuple(trained), tuple(images), tuple(data))


def _look_alike(mark: str, marks: Marks, found: list[str], name: str) -> str:
    """The text that a numbered mark stands for."""
    number = mark.strip(marks.data)
    if not number or int(number) >= len(found):
        raise TemplateError(
            f"template {name!r}: it cuts a message's text apart, through a special token in it; "
            "clean the record or correct the template"
        )
    return found[int(number)]


@lru_cache(maxsize=64)
def _mark_pattern(marks: Marks) -> re.Pattern[str]:
    # One range of characters in front, all four marks: the search then skips plain text quickly.
    return re.compile(f"([{marks.slot}-{marks.close}](?:(?<={marks.data})[0-9]+{marks.data})?)")


def look_alike_events(found: list[str], image_token: str) -> Counter[str]:
    """Reason codes for the look-alikes that a conversation has."""
    events: Counter[str] = Counter()
    for text in found:
        events["escaped_image_text" if text == image_token else "escaped_special_text"] += 1
    return events
