"""Where images stand in a text: every mark that formats write becomes `<image>`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ...errors import RecordError
from ...loaders.format import IMAGE_PLACEHOLDER
from .media import Picture, picture_of

OTHER_MARKS = re.compile(
    r"<ImageHere>|<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image_\d+\|>|<\|image\|>"
    r"|<image_?\d+>|<img>|<IMG>|\[IMG\]|<Image>|<IMAGE>|<image_placeholder>|<IMG_CONTEXT>"
)
"""Marks for an image that other formats write, without saying which image."""
_OWN = (
    r"<img>[ \t]*(?P<qwen>[^<>\n]{1,4096}?)[ \t]*</img>"
    r"|<img\s(?:[^<>]{0,500}?\s)?src\s*=\s*(?:\"(?P<double>[^\"<>]{1,4096})\"|"
    r"'(?P<single>[^'<>]{1,4096})')[^<>]{0,500}>"
)
_ANY = re.compile(f"{_OWN}|{OTHER_MARKS.pattern}|{re.escape(IMAGE_PLACEHOLDER)}")
_NUMBER = re.compile(r"\d{1,9}")
_TAGS = ("<img>", "<IMG>")
_IS_MARKUP = re.compile(r"</(?!img>)|`")
"""In a text about HTML a tag `<img>` is a part of what is talked about."""


class Mark(NamedTuple):
    """A place for an image in a message."""

    text: str
    """As the record has it; empty of an image that is a part of its own."""
    picture: Picture | None = None
    """The image, where the place itself says which."""
    number: int | None = None
    """Of the image among those listed beside the text, where the place itself says that."""


class Placed(NamedTuple):
    """Messages whose images are all `<image>`."""

    values: list[str]
    images: list[Picture]
    """In the order of their places; those without a place last."""
    is_renamed: bool
    """Whether another mark in a text became `<image>`."""


def place_images(messages: list[list[str | Mark]], listed: list[Picture]) -> Placed:
    """Bring the places of images and the images together.

    What cannot be told for sure is left as it is, and the later checks reject the record for it.

    Args:
        messages: texts, and images that are parts of their own, of each message that may have
            images.
        listed: the images beside the conversation.

    Raises:
        RecordError: a place names an image that is not there.
    """
    found = [list(_scanned(pieces)) for pieces in messages]
    marks = [piece for pieces in found for piece in pieces if isinstance(piece, Mark)]
    first = _first_number(marks, len(listed))
    own = [mark.picture for mark in marks if mark.picture is not None]
    if listed and [picture.path for picture in own] == [picture.path for picture in listed]:
        # The list only repeats what the text says.
        listed = []
    seats = sum(mark.picture is None and not _is_other(mark) for mark in marks)
    numbers = _meaning(marks, seats, len(listed))
    asked = _asked(marks, numbers, first)
    waiting = iter([n for n in range(len(listed)) if n not in asked])
    used: set[int] = set()
    images: list[Picture] = []
    renamed = False

    def value_of(piece: str | Mark) -> str:
        nonlocal renamed
        if isinstance(piece, str):
            return piece
        if piece.picture is not None:
            images.append(piece.picture)
        else:
            if _is_other(piece) and numbers is None:
                return piece.text
            number = (numbers or {}).get(piece.text) if _is_other(piece) else None
            number = number if piece.number is None else piece.number - first
            number = next(waiting, None) if number is None else number
            if number is not None:
                images.append(listed[number])
                used.add(number)
        renamed = renamed or piece.text not in ("", IMAGE_PLACEHOLDER)
        return IMAGE_PLACEHOLDER

    values = ["".join(map(value_of, pieces)) for pieces in found]
    images += [picture for number, picture in enumerate(listed) if number not in used]
    return Placed(values, images, renamed)


def other_marks(text: str) -> Iterator[re.Match[str]]:
    """Marks in a text that other formats write, without what is a part of HTML there."""
    is_markup = bool(_IS_MARKUP.search(text))
    return (m for m in OTHER_MARKS.finditer(text) if not (is_markup and m[0] in _TAGS))


def are_in_order(marks: list[str], count: int) -> bool:
    """Whether other formats' marks are one for each of so many images, in the images' order."""
    numbers = _meaning([Mark(text) for text in marks], 0, count)
    return numbers is not None and all(
        numbers.get(text, number) == number for number, text in enumerate(marks)
    )


def _scanned(pieces: list[str | Mark]) -> Iterator[str | Mark]:
    for piece in pieces:
        if isinstance(piece, str) and ("<" in piece or "[IMG]" in piece):
            yield from _marks_in(piece)
        else:
            yield piece


def _marks_in(text: str) -> Iterator[str | Mark]:
    at, is_markup = 0, bool(_IS_MARKUP.search(text))
    for match in _ANY.finditer(text):
        path = match["qwen"] or match["double"] or match["single"]
        is_tag = match[0] in _TAGS or bool(path and not match["qwen"])
        if is_markup and is_tag:
            continue
        picture = None
        if path:
            try:
                picture = picture_of(path, "an image in the text")
            except RecordError:
                continue
        yield text[at : match.start()]
        yield Mark(match[0], picture)
        at = match.end()
    yield text[at:]


def _is_other(mark: Mark) -> bool:
    return mark.picture is None and mark.text not in ("", IMAGE_PLACEHOLDER)


def _meaning(marks: list[Mark], seats: int, count: int) -> dict[str, int] | None:
    """Numbers of the images that marks such as `<image2>` name; None where such marks are text.

    They stand for images where together with `<image>` there are as many as images.
    """
    others = [mark.text for mark in marks if _is_other(mark)]
    if not others or seats == count or seats + len(others) != count:
        return None
    numbers = [int(match[0]) if (match := _NUMBER.search(text)) else None for text in others]
    known = [number for number in numbers if number is not None]
    if not known:
        return {}
    first = min(known)
    if seats or first > 1 or sorted(known) != list(range(first, first + count)):
        return None
    return {text: number - first for text, number in zip(others, known, strict=True)}


def _first_number(marks: list[Mark], count: int) -> int:
    """What parts that number their images call the first of `count`: 0, or 1.

    Raises:
        RecordError: they name an image that is not there, whichever it is.
    """
    numbers = {mark.number for mark in marks if mark.number is not None}
    if not numbers or max(numbers) < count:
        return 0
    if numbers == set(range(1, count + 1)):
        return 1
    raise RecordError(
        f"names image {max(numbers)} of {count}, counted from 0", reason="placeholder_mismatch"
    )


def _asked(marks: list[Mark], numbers: dict[str, int] | None, first: int) -> set[int]:
    """Numbers of listed images that places name; the others go to the places without, in turn."""
    named = {mark.number - first for mark in marks if mark.number is not None}
    return named | set((numbers or {}).values())
