"""Encoding: a conversation becomes tokens and labels in one pass.

messages ──render──▶ text + spans ──split at images──▶ chunks ──tokenize──▶ ids + offsets
         ──place──▶ tokens + labels ──limit──▶ TokenizedSample
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..errors import TemplateError
from .chunk import Chunk, Encoded
from .config import ImageToken, resolve_template
from .library import get_template
from .listed import Span
from .lookalikes import check_look_alikes, count_role_markers, specials_of
from .marks import Specials
from .messages import Message, move_images_to_front, read_messages
from .overflow import Limit, Overflow, cut_answer, drop_last_turns, too_long
from .reader import Reader, reader_of
from .render import ConversationTemplate, ImagePlacement
from .rendered import Rendered
from .sample import TokenizedSample

Messages = Sequence[Mapping[str, Any]]
SpecialText = Literal["escape", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """The options of one call, resolved."""

    reader: Reader
    template: ConversationTemplate
    specials: Specials
    image_token: ImageToken
    ignore_index: int
    front: bool
    special_text: SpecialText
    limit: Limit | None


def encode_conversation(
    messages: Messages,
    *,
    tokenizer: Any,
    template: ConversationTemplate | str | None = None,
    image_token: ImageToken = ImageToken(),  # noqa: B008 (frozen)
    ignore_index: int = -100,
    image_placement: ImagePlacement = "keep",
    special_text: SpecialText = "escape",
    max_length: int | None = None,
    overflow: Overflow = "error",
    image_embeddings: int | Sequence[int] = 576,
    key: str = "",
) -> TokenizedSample:
    """One conversation as tokens and labels.

    Args:
        messages: `{"role", "content"}` or LLaVA's `{"from", "value"}`.
        tokenizer: of transformers, fast or slow, or a processor that has one; it is not changed.
        template: a template, the name of one, or None for the tokenizer's own.
        image_token: placeholder text and the id that stands for an image.
        ignore_index: label where no loss is taken.
        image_placement: `keep` leaves images where they stand, `front` moves each before the text
            of its turn, as LLaVA does.
        special_text: what to do with content that looks like a special token, a role marker or,
            in an answer, an image. `escape` encodes it as plain text and counts it; `error`
            refuses it.
        max_length: most tokens, with images counted as `image_embeddings`; None for no limit.
        overflow: `error`, `drop_last_turns`, or `truncate_answer`.
        image_embeddings: positions that an image takes in the model: one number for all, or one for
            each in their order.
        key: shard key or record id, for messages and the sample.

    Returns:
        The sample; labels are not shifted.

    Raises:
        TemplateError: the conversation cannot be rendered, or it is refused by `special_text`.
        PackError: the conversation is too long, and `overflow` cannot or may not shorten it.
        ValueError: neither a template nor one of the tokenizer is there.
    """
    return encode_conversations(
        [messages],
        tokenizer=tokenizer,
        template=template,
        image_token=image_token,
        ignore_index=ignore_index,
        image_placement=image_placement,
        special_text=special_text,
        max_length=max_length,
        overflow=overflow,
        image_embeddings=image_embeddings,
        keys=[key],
    )[0]


def encode_conversations(
    conversations: Sequence[Messages],
    *,
    tokenizer: Any,
    template: ConversationTemplate | str | None = None,
    image_token: ImageToken = ImageToken(),  # noqa: B008 (frozen)
    ignore_index: int = -100,
    image_placement: ImagePlacement = "keep",
    special_text: SpecialText = "escape",
    max_length: int | None = None,
    overflow: Overflow = "error",
    image_embeddings: int | Sequence[int] = 576,
    keys: Sequence[str] | None = None,
) -> list[TokenizedSample]:
    """Many conversations in one call of the tokenizer; each as `encode_conversation` gives it.

    Raises:
        TemplateError, PackError, ValueError: as `encode_conversation`; the message has the key.
    """
    if special_text not in ("escape", "error"):
        raise TemplateError(f"special_text is {special_text!r}; give 'escape' or 'error'")
    if image_placement not in ("keep", "front"):
        raise TemplateError(f"image_placement is {image_placement!r}; give 'keep' or 'front'")
    reader, resolved = reader_of(tokenizer, image_token.token_str), _resolve(template, tokenizer)
    rules = _Rules(
        reader=reader,
        template=resolved,
        specials=specials_of(resolved, reader.specials),
        image_token=image_token,
        ignore_index=ignore_index,
        front=image_placement == "front",
        special_text=special_text,
        limit=None if max_length is None else Limit(max_length, overflow, image_embeddings),
    )
    keys = keys or [""] * len(conversations)
    rendered = [
        _render(messages, rules, key) for messages, key in zip(conversations, keys, strict=True)
    ]
    placed = _place_all(rendered, rules)
    return [
        _limit(_sample(tokens, text, rules, key), messages, tokens, text, rules)
        for tokens, text, messages, key in zip(placed, rendered, conversations, keys, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Placed:
    """Tokens of a conversation with the places that are trained."""

    tokens: array[int]
    """Ids as int64."""
    trained: list[Span]
    """Token spans [start, end) where loss is taken."""


def split_at_images(rendered: Rendered) -> list[Chunk]:
    """The text before, between and after the images; an empty text is no chunk's neighbour."""
    chunks = []
    cursor = 0
    for start, end in (*rendered.images, (len(rendered.text), len(rendered.text))):
        data = tuple(
            (first - cursor, last - cursor)
            for first, last in rendered.data
            if cursor <= first and last <= start
        )
        chunks.append(Chunk(rendered.text[cursor:start], cursor, data))
        cursor = end
    return chunks


def bos_of(rendered: Rendered, template: ConversationTemplate, reader: Reader) -> int | None:
    """The BOS to put before the tokens; None where the template wrote it, or wants none."""
    if not template.add_bos or reader.bos_id is None:
        return None
    is_written = rendered.text.startswith(reader.specials.bos_token or "\0")
    # What a message begins with is not the template's, whatever it looks like.
    is_data = bool(rendered.data) and rendered.data[0][0] == 0
    return None if is_written and not is_data else reader.bos_id


def _resolve(template: ConversationTemplate | str | None, tokenizer: Any) -> ConversationTemplate:
    if isinstance(template, ConversationTemplate):
        return template
    return resolve_template(None, tokenizer) if template is None else get_template(template)


def _before_answers(messages: Messages, rendered: Rendered, rules: _Rules) -> int:
    """How many trained spans lie before the first answer: v0 trains what begins a turn, too."""
    turns = _turns(messages, rules)
    spans = zip(turns, rules.template.content_spans(turns, rules.specials), strict=True)
    first = next((span[0] for turn, span in spans if span and turn.role == "assistant"), 0)
    return sum(end <= first for _, end in rendered.trained)


def _turns(messages: Messages, rules: _Rules) -> tuple[Message, ...]:
    turns = read_messages(messages, rules.specials.image_token)
    return tuple(map(move_images_to_front, turns)) if rules.front else turns


def _render(messages: Messages, rules: _Rules, key: str, kept: int | None = None) -> Rendered:
    """The conversation as text, or its first messages; an error names the record."""
    try:
        specials = rules.specials
        # Whether a text is a placeholder depends on all messages, those that are left out too.
        turns = _turns(messages, rules)[:kept]
        rendered = rules.template.render_turns(turns, specials)
        markers = count_role_markers(turns, rules.template, specials)
        if rules.special_text == "error":
            check_look_alikes(rendered, markers)
    except TemplateError as error:
        if not key:
            raise
        raise TemplateError(f"{key}: {error}", reason=error.reason) from error
    if not markers:
        return rendered
    events = Counter(rendered.events)
    events["escaped_role_marker"] += sum(markers.values())
    return replace(rendered, events=dict(events))


def _place_all(rendered: Sequence[Rendered], rules: _Rules) -> list[Placed]:
    chunks = [split_at_images(text) for text in rendered]
    encoded = iter(rules.reader.encoder.encode([chunk for some in chunks for chunk in some]))
    return [
        _place(text, [(chunk, next(encoded)) for chunk in some], rules)
        for text, some in zip(rendered, chunks, strict=True)
    ]


def _place(rendered: Rendered, chunks: Iterable[tuple[Chunk, Encoded]], rules: _Rules) -> Placed:
    """Chunks and images in a row, trained character spans as token spans."""
    bos = bos_of(rendered, rules.template, rules.reader)
    tokens = array("q", [] if bos is None else [bos])
    trained = []
    for number, (chunk, encoded) in enumerate(chunks):
        if number:
            tokens.append(rules.image_token.token_id)
        begin, length = chunk.start, len(chunk.text)
        for start, end in rendered.trained:
            if start < begin + length and begin < end:
                first, last = encoded.touched(max(start - begin, 0), min(end - begin, length))
                if first < last:
                    trained.append((len(tokens) + first, len(tokens) + last))
        tokens.extend(encoded.ids)
    return Placed(tokens, trained)


def _sample(placed: Placed, rendered: Rendered, rules: _Rules, key: str) -> TokenizedSample:
    tokens = np.array(placed.tokens, dtype=np.int64)
    labels = np.full(len(tokens), rules.ignore_index, dtype=np.int64)
    for start, end in placed.trained:
        labels[start:end] = tokens[start:end]
    return TokenizedSample(
        tokens=tokens,
        labels=labels,
        key=key,
        num_images=len(rendered.images),
        events=rendered.events,
    )


def _limit(
    sample: TokenizedSample, messages: Messages, placed: Placed, rendered: Rendered, rules: _Rules
) -> TokenizedSample:
    limit = rules.limit
    if limit is None or limit.length(sample) <= limit.max_length:
        return sample
    if limit.overflow == "truncate_answer":
        answers = placed.trained[_before_answers(messages, rendered, rules) :]
        return cut_answer(sample, answers, limit, rules.image_token.token_id)
    if limit.overflow == "drop_last_turns":

        def encode(shorter: Messages) -> TokenizedSample:
            text = _render(messages, rules, sample.key, kept=len(shorter))
            return _sample(_place_all([text], rules)[0], text, rules, sample.key)

        return drop_last_turns(sample, messages, encode, limit)
    raise too_long(sample, limit)
