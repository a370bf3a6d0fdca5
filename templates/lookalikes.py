"""Content that looks like structure: found, counted, and refused where that is the policy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ..errors import TemplateError
from . import sandbox
from .marks import Specials
from .messages import Message
from .reader import tokenizer_of
from .render import ConversationTemplate
from .rendered import Rendered
from .show import all_text

_PROBE = ("\U000f1000", "\U000f1001", "\U000f1002", "\U000f1003")
_TAG = re.compile(r"(?<!<)<[^<>\s]+>(?!>)")
_SEAM = re.compile(r"\n|(<[^<>\s]+>)")


def count_role_markers(
    turns: Sequence[Message], template: ConversationTemplate, specials: Specials
) -> dict[str, int]:
    """Role markers in plain letters, such as `USER:`, that stand in the messages' own texts.

    They are encoded as the text that they are; special tokens are counted elsewhere.
    """
    text = all_text(turns)
    return {
        marker: text.count(marker)
        for marker in role_markers(template, specials.protected)
        if marker in text
    }


@lru_cache(maxsize=256)
def specials_of(template: ConversationTemplate, specials: Specials) -> Specials:
    """What is structure in this template's texts: added tokens, too, that the template writes."""
    if not specials.added:
        return specials
    text = _probe_text(template)
    written = {token for token in specials.added if token in text}
    sought = sandbox.tags_looked_for(template.chat_template)
    return replace(
        specials,
        protected=tuple(sorted({*specials.protected, *written})),
        added=(),
        sought=tuple(sorted(written.intersection(sought))),
    )


@lru_cache(maxsize=256)
def role_markers(template: ConversationTemplate, protected: tuple[str, ...]) -> tuple[str, ...]:
    """What the template writes between turns, without special tokens and bare words.

    Example:
        >>> role_markers(get_template("v1"), ("</s>",))
        ('ASSISTANT:', 'USER:')
    """
    between = re.split("|".join(_PROBE), _probe_text(template))[1:-1]
    found = {
        piece.strip()
        for part in between
        for piece in _SEAM.split(part.replace(template.stop_string or "\0", "\n"))
        if piece
    }
    words = {marker for marker in found if len(marker) > 2 and not marker.isalnum()}
    return tuple(sorted(words - set(protected)))


def spelled_out(template: ConversationTemplate, tokenizer: Any) -> tuple[str, ...]:
    """Tags that a model would have to write, such as `<|im_end|>`, and has no token for.

    They become pieces, which merge with the answer before them: the template is of another model.
    """
    known = Specials(bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
    rendered = _probe(template, known)
    tags = _TAG.findall(" ".join(rendered.trained_texts)) if rendered else []
    named = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    missing = (None, tokenizer.unk_token_id)
    return tuple(
        tag
        for tag in dict.fromkeys(tags)
        if tag not in named and tokenizer.convert_tokens_to_ids(tag) in missing
    )


def stop_in_pieces(template: ConversationTemplate, processor: Any) -> str:
    """The finding that a template is of another model; empty where its stops are tokens."""
    tokenizer = tokenizer_of(processor)
    tags = spelled_out(template, tokenizer)
    if not tags:
        return ""
    return (
        f"template {template.name!r} ends answers with {', '.join(tags)}, for which this "
        f"{type(tokenizer).__name__} has no token: the model would learn to spell it in pieces"
    )


def _probe_text(template: ConversationTemplate) -> str:
    """What the template writes around four messages; "" where it cannot render them."""
    rendered = _probe(template, Specials())
    return rendered.text if rendered else ""


def _probe(template: ConversationTemplate, specials: Specials) -> Rendered | None:
    roles = ("user", "assistant", "user", "assistant")
    probe = [{"role": role, "content": text} for role, text in zip(roles, _PROBE, strict=True)]
    try:
        return template.render(probe, specials)
    except TemplateError:
        return None


def check_look_alikes(rendered: Rendered, markers: Mapping[str, int]) -> None:
    """Refuse content that looks like structure.

    Raises:
        TemplateError: there is some; the message has the first, and the text around it.
    """
    if rendered.data:
        start, end = rendered.data[0]
        around = rendered.text[max(0, start - 30) : end + 30]
        raise TemplateError(
            f"content has {rendered.text[start:end]!r} as text, in {around!r}; "
            "clean the record or use special_text='escape'",
            reason="special_text",
        )
    if markers:
        raise TemplateError(
            f"content has the role marker {next(iter(markers))!r}; "
            "clean the record or use special_text='escape'",
            reason="special_text",
        )
