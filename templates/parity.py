"""Training and serving side by side: one conversation through our template and through theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import TemplateError
from .encode import bos_of, split_at_images
from .lookalikes import specials_of
from .messages import read_messages
from .reader import reader_of, tokenizer_of
from .render import ConversationTemplate

AROUND = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How the prompt that we train on compares with the one that serving will use."""

    same_text: bool
    same_ids: bool
    text_place: int | None
    """Character of the first difference; None where there is none."""
    ours: str
    """Our text, or what stands around the difference."""
    theirs: str
    id_place: int | None
    """Token of the first difference."""
    our_ids: list[int]
    their_ids: list[int]


def compare_with_serving(
    messages: Sequence[Mapping[str, Any]],
    *,
    processor: Any,
    template: ConversationTemplate,
    image_token: str = "<image>",
) -> Parity:
    """The prompt up to the next answer, text and ids, ours and `apply_chat_template`'s.

    Serving's image tokens are compared as one each: a processor repeats them later.

    Args:
        messages: a conversation that ends with the user.
        processor: what serving loads: a processor or a tokenizer.
        template: ours.
        image_token: the placeholder in the messages.

    Raises:
        TemplateError: serving has no chat template, or refuses the conversation.
    """
    reader = reader_of(processor, image_token)
    turns = read_messages(messages, image_token)
    rendered = template.render_turns(
        turns, specials_of(template, reader.specials), add_generation_prompt=True
    )
    encoded = reader.encoder.encode(split_at_images(rendered))
    bos = bos_of(rendered, template, reader)
    tokenizer = tokenizer_of(processor)
    placeholder = tokenizer.convert_tokens_to_ids(image_token)
    unknown = placeholder is None or placeholder == tokenizer.unk_token_id
    ours = [] if bos is None else [bos]
    for number, chunk in enumerate(encoded):
        ours += [] if number == 0 else [-200 if unknown else placeholder]
        ours += chunk.ids
    text = _their_text(turns, processor, image_token)
    begins = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    is_processor = tokenizer is not processor
    theirs = list(tokenizer(text, add_special_tokens=is_processor and not begins)["input_ids"])
    # Our BOS is an id; serving may write it out.
    own = f"{tokenizer.bos_token}{rendered.text}" if bos is not None and begins else rendered.text
    text_place = _first_difference(own, text)
    id_place = _first_difference(ours, theirs)
    return Parity(
        same_text=text_place is None,
        same_ids=id_place is None,
        text_place=text_place,
        ours=_around(own, text_place),
        theirs=_around(text, text_place),
        id_place=id_place,
        our_ids=ours,
        their_ids=theirs,
    )


def _their_text(turns: Sequence[Any], processor: Any, image_token: str) -> str:
    """The prompt that serving makes; content as parts where its template reads parts."""
    is_processor = hasattr(processor, "image_processor")
    messages = [
        {
            **turn.extras,
            "role": turn.role,
            "content": [
                {"type": "image"} if part is None else {"type": "text", "text": part}
                for part in turn.parts
            ]
            if is_processor
            else "".join(image_token if part is None else part for part in turn.parts),
        }
        for turn in turns
    ]
    try:
        return str(
            processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    # Whatever a stranger's template or processor raises is a finding about it.
    except Exception as error:
        raise TemplateError(
            f"{type(processor).__name__}: apply_chat_template fails ({error}); "
            "give the folder that serving loads"
        ) from error


def _first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> int | None:
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return place
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def _around(text: str, place: int | None) -> str:
    return text if place is None else text[max(0, place - AROUND) : place + AROUND]
