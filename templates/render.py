"""Rendering: messages become text, with character spans of what is trained."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import TemplateError
from . import sandbox
from .listed import Span
from .marks import Marks, Protector, Specials, choose_marks
from .messages import Message, move_images_to_front, read_messages
from .rendered import Rendered, look_alike_events, read_marks
from .show import Show, all_text
from .spans import mark_content, trained_by_position
from .thoughts import count_dropped

ImagePlacement = Literal["keep", "front"]


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
        show = Show(
            self.chat_template, self.roles, protector if protector.may_find(joined) else None, marks
        )
        shown = [show(turn) for turn in turns]
        endings = (self.stop_string,) if self.stop_string else specials.protected
        variables = self._variables(specials, marks, add_generation_prompt)
        raw = self._fill(shown, variables, marks, endings)
        if protector.found and marks.are_escaped_in(raw):
            raise TemplateError(
                f"{self._where()}: it shows a field as Python or ASCII JSON spells it, and that "
                "has a special token as text; clean the record, or let the template use tojson"
            )
        rendered = read_marks(raw, marks, protector.found, specials.image_token, self.name)
        self._check_images(turns, rendered)
        if protector.found:
            events.update(look_alike_events(protector.found, specials.image_token))
        sought = sandbox.tags_looked_for(self.chat_template)
        if dropped := count_dropped(turns, rendered.text, sought):
            events["dropped_thoughts"] = dropped
        return replace(rendered, events=events) if events else rendered

    def content_spans(self, turns: tuple[Message, ...], specials: Specials) -> list[Span | None]:
        """Where each message's own text stands in the rendered text; None where it does not.

        All messages are rendered between marks at once. A template that then writes another text,
        or leaves a message out, is rendered once for each of them.
        """
        prepared, _ = self._prepare(turns)
        joined = all_text(prepared)
        marks = choose_marks(joined + self.chat_template)
        protector = Protector(specials, marks)
        show = Show(self.chat_template, self.roles, protector, marks)
        shown = [show(turn) for turn in prepared]
        silent = {sandbox.OPEN_NAME: "", sandbox.CLOSE_NAME: ""}
        variables = self._variables(specials, marks, False) | silent
        sought = sandbox.tags_looked_for(self.chat_template)
        tags = [sought if turn.role == "assistant" else () for turn in prepared]

        def render(numbers: Container[int]) -> Rendered:
            messages = [
                {**message, "content": mark_content(message["content"], marks, tags[number])}
                if number in numbers
                else message
                for number, message in enumerate(shown)
            ]
            raw = self._run(messages, variables)
            return read_marks(raw, marks, protector.found, specials.image_token, self.name)

        every = range(len(prepared))
        found = None
        with suppress(TemplateError):
            found = _by_message(render(every), render(()), prepared, specials.image_token)
        if found is None:
            single = [render((number,)).trained for number in every]
            found = [spans[0] if len(spans) == 1 else None for spans in single]
        places = {id(turn): span for turn, span in zip(prepared, found, strict=True)}
        return [places.get(id(turn)) for turn in turns]

    def _prepare(self, turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], dict[str, int]]:
        """The turns with the system text in front and without answers to nothing."""
        events: dict[str, int] = {}
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
        sought = sandbox.tags_looked_for(self.chat_template)
        return trained_by_position(raw, shown, render, marks, self._where(), endings, sought)

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
            line = f", line {getattr(error, 'lineno', 0)}" if getattr(error, "lineno", None) else ""
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


def _by_message(
    marked: Rendered, plain: Rendered, turns: Sequence[Message], image_token: str
) -> list[Span | None] | None:
    """The marked spans, if they are what the messages say, one for each and in their order."""
    if marked.text != plain.text or len(marked.trained) != len(turns):
        return None
    for (start, end), turn in zip(marked.trained, turns, strict=True):
        said = "".join(image_token if part is None else part for part in turn.parts)
        if plain.text[start:end].strip() not in said:
            return None
    return list(marked.trained)
