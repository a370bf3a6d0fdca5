"""Trained spans for templates without `{% generation %}`: by the place of each answer.

Every answer is rendered once more between two marks. Where the marks come out is where the answer
is; nothing is searched for. The text that ends the answer is what the message adds after it.
Of an answer with thoughts, the marks stand around what follows them, and the span begins where
serving's prompt ends: thoughts are what a model says, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import TemplateError
from .listed import Span
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
    shown: list[dict[str, Any]],
    marks: Marks,
    sought: tuple[str, ...],
    silent: frozenset[int] = frozenset(),
) -> list[list[dict[str, Any]]]:
    """The messages with a mark before and after the inner text of every answer.

    White space at the end stays outside, so that a template's trimming finds what it would. That at
    the beginning is the answer's where it is shown: with it inside first, then without.
    """

    def mark(whole: bool) -> list[dict[str, Any]]:
        return [
            {**message, "content": mark_content(message["content"], marks, sought, whole=whole)}
            if message["role"] == "assistant" and index not in silent
            else message
            for index, message in enumerate(shown)
        ]

    inner, whole = mark(False), mark(True)
    return [inner] if inner == whole else [whole, inner]


def trained_by_position(
    raw: str,
    shown: list[dict[str, Any]],
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
        render: the template, from messages to text.
        marks: characters that occur in no message.
        where: the template, for errors.
        endings: texts that end an answer: the stop string, or the tokenizer's special tokens.
        sought: tags that the template looks for in answers, such as the end of a thought.

    Raises:
        TemplateError: the template changes, repeats, reorders or drops an answer, or writes it
            differently when it comes last; the message says which.
    """
    found = _Found(raw, shown, render, marks, where, endings, sought)
    try:
        spans = found.spans(frozenset())
    except TemplateError:
        # Calls without a text: some templates leave the text's place out.
        silent = frozenset(index for index, turn in enumerate(shown) if _only_calls(turn, sought))
        if not silent:
            raise
        called = {index: found.called(index) for index in silent}
        spans = found.spans(silent) | called
    pieces = []
    cursor = 0
    for start, end in sorted(spans.values()):
        pieces += [raw[cursor:start], marks.open, raw[start:end], marks.close]
        cursor = end
    return "".join((*pieces, raw[cursor:]))


@dataclass(frozen=True, slots=True)
class _Found:
    """A rendered conversation, and where its answers are found in it."""

    raw: str
    shown: list[dict[str, Any]]
    render: Callable[..., str]
    marks: Marks
    where: str
    endings: tuple[str, ...]
    sought: tuple[str, ...]

    def spans(self, silent: frozenset[int]) -> dict[int, Span]:
        """Character spans of the answers with their endings, by message, without silent ones."""
        shown, render, marks = self.shown, self.render, self.marks
        for marked in mark_answers(shown, marks, self.sought, silent):
            text = render(marked)
            if _without(text, marks) == self.raw:
                break
        else:
            raise TemplateError(
                f"{self.where}: it looks into the answers, so their place in the text is unclear; "
                "mark what is trained with {% generation %}"
            )
        answers = [
            index
            for index, message in enumerate(shown)
            if message["role"] == "assistant" and index not in silent
        ]
        pieces = _split_at_marks(text, marks, answers, self.where)
        spans = {}
        place = 0
        for number, index in enumerate(answers):
            before, answer, after = pieces[2 * number : 2 * number + 3]
            start = place + len(before)
            if has_thoughts(shown[index], self.sought):
                prompt = _prompt_end(self.raw, shown[:index], render)
                start = prompt if prompt is not None and place <= prompt < start else start
            place += len(before) + len(answer)
            calls = bool(shown[index].get("tool_calls"))
            added = None if calls else _ending(after, self.endings)
            if added is None:
                added = _added_after(index, shown, marked, render, marks)
                added = added and _cut_after(added, self.endings, last=calls)
            if added is None or not after.startswith(added):
                raise TemplateError(
                    f"{self.where}: message {index} ends differently when other messages follow, "
                    "so what it adds is unclear; mark what is trained with {% generation %}"
                )
            spans[index] = (start, place + len(added))
        return spans

    def called(self, index: int) -> Span:
        """The span of calls without a text: from the prompt to the last ending of the message."""
        start = _prompt_end(self.raw, self.shown[:index], self.render)
        alone = self.render(self.shown[: index + 1], add_generation_prompt=False)
        if start is not None and alone[:start] == self.raw[:start]:
            added = _cut_after(alone[start:], self.endings, last=True)
            if added.endswith(self.endings) and self.raw.startswith(added, start):
                return start, start + len(added)
        raise TemplateError(
            f"{self.where}: the calls of message {index} do not stand right behind the prompt for "
            "them; mark what is trained with {% generation %}"
        )


def _only_calls(message: dict[str, Any], sought: tuple[str, ...]) -> bool:
    """Whether an answer has calls, and no text behind its thoughts."""
    content = message["content"]
    is_text = isinstance(content, str)
    said = content[after_thoughts(content, sought) :].strip() if is_text else content
    return message["role"] == "assistant" and bool(message.get("tool_calls")) and not said


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
