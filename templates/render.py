"""Rendering: messages become text, with character spans of what is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from ..errors import TemplateError
from . import sandbox
from .marks import Marks, Protector, Specials, choose_marks
from .messages import Message, move_images_to_front, read_messages
from .spans import mark_answers, trained_by_position

Span = tuple[int, int]
ImagePlacement = Literal["keep", "front"]


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


@dataclass(frozen=True, slots=True)
class ConversationTemplate:
    """A chat template and the words that it needs."""

    name: str
    chat_template: str
    """Jinja; it sees messages, roles, stop_string, bos_token, eos_token, add_generation_prompt.

    A message has role, content, its own other fields, and image_slots: its images without text.
    """
    system: str | None = None
    """Put in front of a conversation that has no system message; None or "" for none."""
    roles: tuple[str, str] = ("user", "assistant")
    """How the template calls the user and the assistant; `message.role` is one of these."""
    stop_string: str | None = None
    """What ends an answer."""
    add_bos: bool = False
    """Put the tokenizer's BOS in front when the text does not begin with it."""
    user_first: bool = False
    """Answers before the first user message are dropped, and counted."""
    uses_user_text: bool = True
    """False where only the images of a user turn are shown (`plain`)."""
    trusted: bool = False
    """Render without a budget of time and memory: for templates of the library."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", tuple(self.roles))
        if len(self.roles) != 2 or not all(isinstance(role, str) for role in self.roles):
            raise TemplateError(
                f"template {self.name!r}: roles are {self.roles!r}; give two names, "
                "the user's and the assistant's"
            )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        specials: Specials = Specials(),  # noqa: B008 (frozen)
        *,
        image_placement: ImagePlacement = "keep",
        add_generation_prompt: bool = False,
    ) -> Rendered:
        """The conversation as text.

        Args:
            messages: `{"role", "content"}` or LLaVA's `{"from", "value"}`.
            specials: what the tokenizer treats as structure; content that looks like it is data.
            image_placement: `keep` leaves images where they stand, `front` moves each before the
                text of its turn.
            add_generation_prompt: end with the opening of the next answer, as serving does.

        Raises:
            TemplateError: the template fails, runs too long, shows an image or an answer more or
                less often than the conversation has it, or leaves unclear what is trained.
        """
        turns = read_messages(messages, specials.image_token)
        if image_placement == "front":
            turns = tuple(map(move_images_to_front, turns))
        elif image_placement != "keep":
            raise TemplateError(f"image_placement is {image_placement!r}; give 'keep' or 'front'")
        return self.render_turns(turns, specials, add_generation_prompt=add_generation_prompt)

    def render_turns(
        self,
        turns: tuple[Message, ...],
        specials: Specials,
        *,
        add_generation_prompt: bool = False,
    ) -> Rendered:
        """The same for messages that were read already."""
        turns, events = self._prepare(turns)
        joined = all_text(turns)
        marks = choose_marks(joined + self.chat_template)
        protector = Protector(specials, marks)
        show = _Show(self, protector if protector.may_find(joined) else None, marks)
        shown = [show(turn) for turn in turns]
        endings = (self.stop_string,) if self.stop_string else specials.protected
        variables = self._variables(specials, marks, add_generation_prompt)
        raw = self._fill(shown, variables, marks, endings)
        rendered = _read_marks(raw, marks, protector.found, specials.image_token, self.name)
        self._check_images(turns, rendered)
        if protector.found:
            events.update(_look_alike_events(protector.found, specials.image_token))
        return replace(rendered, events=dict(events)) if events else rendered

    def _prepare(self, turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], Counter[str]]:
        """The turns with the system text in front and without answers to nothing."""
        events: Counter[str] = Counter()
        if self.user_first and turns[0].role != "user":
            first = next((i for i, turn in enumerate(turns) if turn.role == "user"), 0)
            kept = tuple(
                turn for i, turn in enumerate(turns) if i >= first or turn.role != "assistant"
            )
            if len(kept) < len(turns):
                events["dropped_leading_answer"] = len(turns) - len(kept)
            turns = kept
        if not self.uses_user_text:
            hidden = sum(turn.role != "assistant" and bool(turn.text.strip()) for turn in turns)
            if hidden:
                events["dropped_user_text"] = hidden
        if self.system and turns[0].role != "system":
            turns = (Message(role="system", parts=(self.system,)), *turns)
        return turns, events

    def _variables(
        self, specials: Specials, marks: Marks, add_generation_prompt: bool
    ) -> dict[str, Any]:
        variables = {
            "roles": self.roles,
            "stop_string": self.stop_string or "",
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            sandbox.OPEN_NAME: marks.open,
            sandbox.CLOSE_NAME: marks.close,
        }
        # Undefined, not None, where unknown: templates then say their own.
        known = {"bos_token": specials.bos_token, "eos_token": specials.eos_token}
        return variables | {name: text for name, text in known.items() if text is not None}

    def _fill(
        self,
        shown: list[dict[str, Any]],
        variables: dict[str, Any],
        marks: Marks,
        endings: tuple[str, ...],
    ) -> str:
        """The template's text with marks in it, trained spans always marked."""

        def render(messages: list[dict[str, Any]], **changes: Any) -> str:
            return self._run(messages, variables | changes)

        raw = render(shown)
        if sandbox.marks_generation(self.chat_template):
            return raw
        if not any(message["role"] == "assistant" for message in shown):
            return raw
        return trained_by_position(
            raw, shown, mark_answers(shown, marks), render, marks, self._where(), endings
        )

    def _run(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
        try:
            return sandbox.render_source(
                self.chat_template, {"messages": messages, **variables}, trusted=self.trusted
            )
        except TemplateError:
            raise
        # A template is a program from a stranger: whatever it raises is its fault.
        except Exception as error:
            what = str(error) or type(error).__name__
            line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
            raise TemplateError(
                f"{self._where()}{line}: cannot render the conversation ({what}); "
                "correct the template or the messages"
            ) from error

    def _where(self) -> str:
        return f"template {self.name!r}"

    def _check_images(self, turns: tuple[Message, ...], rendered: Rendered) -> None:
        given = sum(turn.num_images for turn in turns)
        if len(rendered.images) != given:
            raise TemplateError(
                f"{self._where()}: the conversation has {given} images but the text shows "
                f"{len(rendered.images)}; the template must show each image once"
            )


class _RoleName(str):
    """A role's name in this template that also equals its usual name.

    `message.role == 'user'` and `message.role == roles[0]` both hold, so that one template serves
    whether it was written for its own names or for the usual ones.
    """

    usual: str

    def __new__(cls, name: str, usual: str) -> _RoleName:
        role = super().__new__(cls, name)
        role.usual = usual
        return role

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or self.usual == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@lru_cache(maxsize=256)
def _role_name(role: str, roles: tuple[str, str]) -> str:
    if role not in ("user", "assistant"):
        return role
    name = roles[0] if role == "user" else roles[1]
    return role if name == role else _RoleName(name, role)


def all_text(turns: Sequence[Message]) -> str:
    """Everything that the messages say, to look for characters in."""
    texts = [part for turn in turns for part in turn.parts if part is not None]
    texts += [str(turn.extras) for turn in turns if turn.extras]
    return "\n".join(texts)


class _Show:
    """Writes a message as templates expect it, its look-alikes and images replaced by marks."""

    def __init__(
        self, template: ConversationTemplate, protector: Protector | None, marks: Marks
    ) -> None:
        self._chat_template = template.chat_template
        self._as_parts = sandbox_reads_parts(template.chat_template)
        self._roles = template.roles
        self._protector = protector
        self._slot = marks.slot

    def __call__(self, turn: Message) -> dict[str, Any]:
        """One message for the template."""
        protector = self._protector
        parts = turn.parts
        if protector is not None:
            parts = tuple(None if part is None else protector.protect(part) for part in parts)
        shown: dict[str, Any] = {"image_slots": self._slot * parts.count(None)}
        if turn.extras:
            shown |= protector.protect_all(turn.extras) if protector else turn.extras
        if self._as_parts:
            shown["content"] = [
                {"type": "image"} if part is None else {"type": "text", "text": part}
                for part in parts
            ]
        else:
            content = "".join([self._slot if part is None else part for part in parts])
            if turn.extras:
                content += _calls_as_text(shown, content, self._chat_template)
            shown["content"] = content
        shown["role"] = _role_name(turn.role, self._roles)
        return shown


def sandbox_reads_parts(chat_template: str) -> bool:
    """Whether the template wants lists of parts; a template that cannot be parsed does not."""
    try:
        return sandbox.reads_content_as_parts(chat_template)
    except sandbox.JinjaError:
        return False


def _calls_as_text(extras: Mapping[str, Any], content: str, chat_template: str) -> str:
    """Tool calls as lines of JSON for templates that do not know them: nothing gets lost."""
    calls = extras.get("tool_calls") or extras.get("function_call")
    if not calls or "tool_calls" in chat_template or "function_call" in chat_template:
        return ""
    calls = calls if isinstance(calls, list) else [calls]
    lines = [sandbox.to_json(call.get("function", call)) for call in calls]
    return "\n".join([""] * bool(content) + lines)


def _read_marks(
    raw: str, marks: Marks, found: list[str], image_token: str, name: str
) -> Rendered:
    """Marked text becomes plain text and spans."""
    # In content the placeholder is a mark or a number by now: these were written by the template.
    raw = raw.replace(image_token, marks.slot) if image_token in raw else raw
    pieces = _mark_pattern(marks).split(raw)
    trained: list[Span] = []
    images: list[Span] = []
    data: list[Span] = []
    length = len(pieces[0])
    depth = opened = 0
    for number in range(1, len(pieces), 2):
        mark = pieces[number]
        start = length
        if mark == marks.open:
            opened = opened if depth else start
            depth += 1
            pieces[number] = ""
        elif mark == marks.close:
            depth -= 1
            if depth < 0:
                break
            if depth == 0 and start > opened:
                trained.append((opened, start))
            pieces[number] = ""
        elif mark == marks.slot:
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
    # One set of characters in front: the search then skips plain text quickly.
    singles = "".join((marks.slot, marks.open, marks.close, marks.data))
    return re.compile(f"([{singles}](?:(?<={marks.data})[0-9]+{marks.data})?)")


def _look_alike_events(found: list[str], image_token: str) -> Counter[str]:
    events: Counter[str] = Counter()
    for text in found:
        events["escaped_image_text" if text == image_token else "escaped_special_text"] += 1
    return events
