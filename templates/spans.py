"""Trained spans for templates without `{% generation %}`: by the place of each answer.

Every answer is rendered once more between two marks. Where the marks come out is where the answer
is; nothing is searched for. The text that ends the answer is what the message adds after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import TemplateError
from .marks import Marks
from .show import Parts


def mark_answers(shown: list[dict[str, Any]], marks: Marks) -> list[dict[str, Any]]:
    """The messages with a mark before and after the inner text of every answer.

    White space at the ends stays outside, so that a template's trimming finds what it would.
    """
    return [
        {**message, "content": mark_content(message["content"], marks)}
        if message["role"] == "assistant"
        else message
        for message in shown
    ]


def trained_by_position(
    raw: str,
    shown: list[dict[str, Any]],
    marked: list[dict[str, Any]],
    render: Callable[..., str],
    marks: Marks,
    where: str,
    endings: tuple[str, ...],
) -> str:
    """The rendered text with every answer and its ending between marks.

    Args:
        raw: the text without marks around the answers.
        shown: the messages as the template gets them.
        marked: the same from `mark_answers`.
        render: the template, from messages to text.
        marks: characters that occur in no message.
        where: the template, for errors.
        endings: texts that end an answer: the stop string, or the tokenizer's special tokens.

    Raises:
        TemplateError: the template changes, repeats, reorders or drops an answer, or writes it
            differently when it comes last; the message says which.
    """
    text = render(marked)
    if _without(text, marks) != raw:
        raise TemplateError(
            f"{where}: it looks into the answers, so their place in the text is unclear; "
            "mark what is trained with {% generation %}"
        )
    answers = [index for index, message in enumerate(shown) if message["role"] == "assistant"]
    pieces = _split_at_marks(text, marks, answers, where)
    for number, index in enumerate(answers):
        after = pieces[2 * number + 2]
        calls = bool(shown[index].get("tool_calls"))
        added = None if calls else _ending(after, endings)
        if added is None:
            added = _added_after(index, shown, marked, render, marks)
            added = added and _cut_after(added, endings, last=calls)
        if added is None or not after.startswith(added):
            raise TemplateError(
                f"{where}: message {index} ends differently when other messages follow, so "
                "what it adds is unclear; mark what is trained with {% generation %}"
            )
        pieces[2 * number + 1] += added
        pieces[2 * number + 2] = after[len(added) :]
    return "".join(
        piece if number % 2 == 0 else f"{marks.open}{piece}{marks.close}"
        for number, piece in enumerate(pieces)
    )


def mark_content(content: Any, marks: Marks) -> Any:
    """Content with a mark before and after its inner text."""
    if isinstance(content, str):
        inner = content.strip()
        start = content.index(inner)
        return "".join(
            (content[:start], marks.open, inner, marks.close, content[start + len(inner) :])
        )
    texts = [number for number, part in enumerate(content) if part["type"] == "text"]
    parts = Parts(dict(part) for part in content)
    if not texts:
        return Parts([*parts, {"type": "text", "text": marks.open + marks.close}])
    first, last = parts[texts[0]]["text"], parts[texts[-1]]["text"]
    if len(texts) == 1:
        parts[texts[0]]["text"] = mark_content(first, marks)
        return parts
    lead = len(first) - len(first.lstrip())
    parts[texts[0]]["text"] = first[:lead] + marks.open + first[lead:]
    tail = len(last.rstrip())
    parts[texts[-1]]["text"] = last[:tail] + marks.close + last[tail:]
    return parts


def _without(text: str, marks: Marks) -> str:
    return text.replace(marks.open, "").replace(marks.close, "")


def _split_at_marks(text: str, marks: Marks, answers: list[int], where: str) -> list[str]:
    """[before, answer, between, answer, …, after]."""
    pieces = []
    rest = text
    for index in answers:
        before, opened, rest = rest.partition(marks.open)
        answer, closed, rest = rest.partition(marks.close)
        if not opened or not closed or marks.close in before or marks.open in answer:
            raise TemplateError(
                f"{where}: the answer of message {index} does not appear once, whole and in its "
                "turn; mark what is trained with {% generation %}"
            )
        pieces += [before, answer]
    if marks.open in rest or marks.close in rest:
        raise TemplateError(
            f"{where}: an answer appears more than once; "
            "mark what is trained with {% generation %}"
        )
    return [*pieces, rest]


def _ending(after: str, endings: tuple[str, ...]) -> str | None:
    """What follows an answer up to its stop string, white space allowed between."""
    inner = after.lstrip()
    for ending in endings:
        if inner.startswith(ending):
            return after[: len(after) - len(inner) + len(ending)]
    return None


def _cut_after(text: str, endings: tuple[str, ...], *, last: bool) -> str:
    """The text up to and with the first or the last stop string in it; all of it if there is none.

    A call begins with a special token of its own, and what ends the message stands behind it.
    """
    find = str.rfind if last else str.find
    ends = [find(text, ending) + len(ending) for ending in endings if ending in text]
    return text[: max(ends) if last else min(ends)] if ends else text


def _added_after(
    index: int,
    shown: list[dict[str, Any]],
    marked: list[dict[str, Any]],
    render: Callable[..., str],
    marks: Marks,
) -> str | None:
    """The text after an answer when nothing follows it."""
    alone = render([*shown[:index], marked[index]], add_generation_prompt=False)
    _, closed, after = alone.rpartition(marks.close)
    return after if closed else None
