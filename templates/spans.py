"""Trained spans for templates without `{% generation %}`: by the place of each answer.

Every answer is rendered once more between two marks. Where the marks come out is where the answer
is; nothing is searched for. The text that ends the answer is what the message adds after it.
Of an answer with thoughts, the marks stand around what follows them, and the span begins where
serving's prompt ends: thoughts are what a model says, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import TemplateError
from .marks import Marks
from .show import Parts
from .thoughts import after_thoughts, has_thoughts


class _Empty(str):
    """The two marks alone, which a template that looks takes for the empty text that they mark.

    So an answer without a text is written as it would be, as templates with tool calls ask.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return other == ""

    def __ne__(self, other: object) -> bool:
        return other != ""

    def strip(self, _: str | None = None, /) -> str:
        return self

    def lstrip(self, _: str | None = None, /) -> str:
        return self

    def rstrip(self, _: str | None = None, /) -> str:
        return self


def mark_answers(
    shown: list[dict[str, Any]], marks: Marks, sought: tuple[str, ...]
) -> list[list[dict[str, Any]]]:
    """The messages with a mark before and after the inner text of every answer.

    White space at the end stays outside, so that a template's trimming finds what it would. That at
    the beginning is the answer's where it is shown: with it inside first, then without.
    """

    def mark(whole: bool) -> list[dict[str, Any]]:
        return [
            {**message, "content": mark_content(message["content"], marks, sought, whole=whole)}
            if message["role"] == "assistant"
            else message
            for message in shown
        ]

    inner, whole = mark(False), mark(True)
    return [inner] if inner == whole else [whole, inner]


def trained_by_position(
    raw: str,
    shown: list[dict[str, Any]],
    choices: list[list[dict[str, Any]]],
    render: Callable[..., str],
    marks: Marks,
    where: str,
    endings: tuple[str, ...],
    sought: tuple[str, ...],
) -> str:
    """The rendered text with every answer and its ending between marks.

    Args:
        raw: the text without marks around the answers.
        shown: the messages as the template gets them.
        choices: the same from `mark_answers`; the first that changes nothing is taken.
        render: the template, from messages to text.
        marks: characters that occur in no message.
        where: the template, for errors.
        endings: texts that end an answer: the stop string, or the tokenizer's special tokens.
        sought: tags that the template looks for in answers, such as the end of a thought.

    Raises:
        TemplateError: the template changes, repeats, reorders or drops an answer, or writes it
            differently when it comes last; the message says which.
    """
    for marked in choices:
        text = render(marked)
        if _without(text, marks) == raw:
            break
    else:
        raise TemplateError(
            f"{where}: it looks into the answers, so their place in the text is unclear; "
            "mark what is trained with {% generation %}"
        )
    answers = [index for index, message in enumerate(shown) if message["role"] == "assistant"]
    pieces = _split_at_marks(text, marks, answers, where)
    start = 0
    for number, index in enumerate(answers):
        start += len(pieces[2 * number])
        if has_thoughts(shown[index], sought):
            begin = _prompt_end(raw, shown[:index], render)
            if begin is not None and 0 < start - begin <= len(pieces[2 * number]):
                cut = len(pieces[2 * number]) - (start - begin)
                pieces[2 * number + 1] = pieces[2 * number][cut:] + pieces[2 * number + 1]
                pieces[2 * number] = pieces[2 * number][:cut]
                start = begin
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
        start += len(pieces[2 * number + 1])
    return "".join(
        piece if number % 2 == 0 else f"{marks.open}{piece}{marks.close}"
        for number, piece in enumerate(pieces)
    )


def mark_content(
    content: Any, marks: Marks, sought: tuple[str, ...] = (), *, whole: bool = False
) -> Any:
    """Content with a mark before and after its inner text, behind thoughts that are parted off.

    Args:
        content: a text or parts.
        marks: characters that occur in no message.
        sought: tags that part thoughts off.
        whole: the text begins with its white space.
    """
    if isinstance(content, str):
        if not content:
            return _Empty(marks.open + marks.close)
        start = after_thoughts(content, sought)
        inner = content[start:].rstrip() or content[start:]
        if not whole:
            start += len(inner) - len(inner.lstrip())
            inner = inner.lstrip()
        return "".join(
            (content[:start], marks.open, inner, marks.close, content[start + len(inner) :])
        )
    texts = [number for number, part in enumerate(content) if part["type"] == "text"]
    parts = Parts(dict(part) for part in content)
    if not texts:
        return Parts([*parts, {"type": "text", "text": marks.open + marks.close}])
    first, last = parts[texts[0]]["text"], parts[texts[-1]]["text"]
    if len(texts) == 1:
        parts[texts[0]]["text"] = mark_content(first, marks, sought, whole=whole)
        return parts
    lead = 0 if whole else len(first) - len(first.lstrip())
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


def _prompt_end(raw: str, before: list[dict[str, Any]], render: Callable[..., str]) -> int | None:
    """Where the prompt for an answer ends, if the text begins with it."""
    try:
        prompt = render(before, add_generation_prompt=True)
    except TemplateError:
        return None
    return len(prompt) if raw.startswith(prompt) else None


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
