"""Why each token is trained or not: the token table of a conversation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from .config import ImageToken
from .encode import bos_of, split_at_images
from .listed import Span
from .lookalikes import specials_of
from .messages import move_images_to_front, read_messages
from .reader import reader_of, tokenizer_of
from .render import ConversationTemplate, ImagePlacement

BOS, IMAGE, QUESTION, ANSWER = "bos", "image", "content", "answer"
STOP, TEXT = "marked by the template", "template text"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedToken:
    """One token, and why it is trained or not."""

    index: int
    """Position in the sample's tokens."""
    id: int
    piece: str
    """The tokenizer's own spelling; the placeholder for an image."""
    text: str
    """The characters that it stands for; empty for a BOS."""
    trained: bool
    turn: int | None
    """Index of the message it belongs to; None for what stands before the first."""
    rule: str
    """`bos`, `image`, `content`, `answer`, `marked by the template`, or `template text`."""


def trace_conversation(
    messages: Sequence[Mapping[str, Any]],
    *,
    tokenizer: Any,
    template: ConversationTemplate,
    image_token: ImageToken = ImageToken(),  # noqa: B008 (frozen)
    image_placement: ImagePlacement = "keep",
) -> list[TracedToken]:
    """The token table of a conversation, in the order of its tokens.

    The turn of a token is the message whose text it touches, or with whose text it is trained, else
    the last one before it.

    Raises:
        TemplateError: the conversation cannot be rendered.
    """
    reader = reader_of(tokenizer, image_token.token_str)
    spell = tokenizer_of(tokenizer).convert_ids_to_tokens
    turns = read_messages(messages, image_token.token_str)
    if image_placement == "front":
        turns = tuple(map(move_images_to_front, turns))
    specials = specials_of(template, reader.specials)
    rendered = template.render_turns(turns, specials)
    chunks = split_at_images(rendered)
    owners = sorted(
        (*span, number)
        for number, span in enumerate(template.content_spans(turns, specials))
        if span is not None
    )
    traced: list[TracedToken] = []

    def add(token: int, span: Span, *, trained: bool, rule: str, piece: str) -> None:
        turn, inside = _owner(owners, span)
        if trained and not inside:
            # The space before an answer, or its stop token: of the answer that it is trained with.
            turn = _owner(owners, _around(rendered.trained, span))[0]
        if not rule:
            rule = _rule(trained, inside)
        text = "" if rule == BOS else rendered.text[span[0] : span[1]]
        traced.append(
            TracedToken(
                index=len(traced),
                id=token,
                piece=piece,
                text=text,
                trained=trained,
                turn=None if rule == BOS else turn,
                rule=rule,
            )
        )

    bos = bos_of(rendered, template, reader)
    if bos is not None:
        add(bos, (0, 0), trained=False, rule=BOS, piece=spell(bos))
    for number, (chunk, encoded) in enumerate(
        zip(chunks, reader.encoder.encode(chunks), strict=True)
    ):
        if number:
            span = rendered.images[number - 1]
            add(image_token.token_id, span, trained=False, rule=IMAGE, piece=image_token.token_str)
        ranges = [
            encoded.touched(max(start - chunk.start, 0), min(end - chunk.start, len(chunk.text)))
            for start, end in rendered.trained
            if start < chunk.start + len(chunk.text) and chunk.start < end
        ]
        is_trained = [False] * len(encoded.ids)
        for first, last in ranges:
            is_trained[first:last] = [True] * (last - first)
        pieces = spell(list(encoded.ids))
        for place, (token, (start, end)) in enumerate(
            zip(encoded.ids, encoded.offsets, strict=True)
        ):
            span = (chunk.start + start, chunk.start + end)
            add(token, span, trained=is_trained[place], rule="", piece=pieces[place])
    return traced


def _owner(owners: Sequence[tuple[int, int, int]], span: Span) -> tuple[int | None, bool]:
    """The message whose text a span touches, else the last one before it."""
    place = _first_behind(owners, span)
    if place < len(owners) and owners[place][0] < span[1]:
        return owners[place][2], True
    return (owners[place - 1][2] if place else None), False


def _around(spans: Sequence[Span], span: Span) -> Span:
    """The first of the spans that touches one; that one itself where none does."""
    place = _first_behind(spans, span)
    touches = place < len(spans) and spans[place][0] < span[1]
    return spans[place] if touches else span


def _first_behind(spans: Sequence[tuple[int, ...]], span: Span) -> int:
    """The first of some spans in a row that ends behind the beginning of one."""
    return bisect_right(spans, span[0], key=itemgetter(1))


def _rule(trained: bool, inside: bool) -> str:
    if trained:
        return ANSWER if inside else STOP
    return QUESTION if inside else TEXT
