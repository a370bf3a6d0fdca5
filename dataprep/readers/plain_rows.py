"""Rows of a question and its answer, or of a caption, whose texts need no second look.

Such a row is staged with its conversation, which is what the form's own reader would make of it, at
a twentieth of the time. Any other row is staged as it is, and that reader judges it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from .record_forms import form_of
from .rows import CAPTION_QUESTION

_MARKS = frozenset("<[")
"""What every mark for an image begins with."""
_OTHERS = frozenset(("tools", "options", "choices", "conversations"))
"""Fields that are more than a question has."""


class PlainRows(NamedTuple):
    """How rows of a table become conversations."""

    form: str
    """That reads the other rows."""
    asks: str
    """Field of the question; empty where it is always the same."""
    says: str
    """Field of the answer."""


def plain_rows(fields: Collection[str]) -> PlainRows | None:
    """How rows with these fields become conversations; None where that takes a closer look.

    Args:
        fields: of every row, `image` among them where rows hold images.
    """
    form = form_of(dict.fromkeys(fields, "")).read_as
    if not _OTHERS.isdisjoint(fields):
        return None
    if form == "vqa" and {"question", "answer"} <= set(fields):
        return PlainRows(form, "question", "answer")
    return PlainRows(form, "", "caption") if form == "captions" else None


def with_conversation(
    record: dict[str, Any], plain: PlainRows, images: Collection[str]
) -> dict[str, Any]:
    """The same record with its conversation, if its texts are plain; it is changed."""
    if not plain.asks and not images:
        return record
    asked = record[plain.asks] if plain.asks else CAPTION_QUESTION
    said = record[plain.says]
    if not (isinstance(asked, str) and isinstance(said, str)) or not _MARKS.isdisjoint(asked):
        return record
    for name in (plain.asks, plain.says):
        record.pop(name, None)
    talk = [
        {"from": "human", "value": "<image>\n" * len(images) + asked},
        {"from": "gpt", "value": said},
    ]
    # First: the form's reader knows it by that.
    return {"conversations": talk, **record}
