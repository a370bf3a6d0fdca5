"""The tokens of a sample as the task encoder makes them, each with the rule that decides its loss.

sample ──preencode──▶ ids, labels (the very ones of training)
       ──trace──────▶ pieces, turns, rules      laid beside them
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import NevaPrepError
from ...loaders.encoded import EncodedSample, RowConfig, expanded_sizes, shift
from ...loaders.image_config import ImageConfig
from ...loaders.pixel_reader import make_pixel_reader
from ...loaders.prepared import EncodedText
from ...loaders.sample import ConversationSample, FailedSample
from ...loaders.text_rules import TextRules
from ...templates.messages import read_messages
from ...templates.reader import tokenizer_of
from ...templates.render import ConversationTemplate
from ...templates.trace import ANSWER, IMAGE, TEXT, TracedToken, trace_conversation
from .view import TokensView, TokenView

if TYPE_CHECKING:
    from ...loaders.task_encoder import MultiModalTaskEncoder
    from .open import Looked


def view_tokens(looked: Looked, index: int, encoder: MultiModalTaskEncoder) -> TokensView:
    """The tokens of a record; one that training would skip says why, and shows what it can.

    Raises:
        ConfigError: there is no such record.
        ShardError: the shard or the index cannot be read.
    """
    return view_sample_tokens(looked.encodable(index), encoder)


def view_messages(
    messages: Sequence[Mapping[str, Any]], encoder: MultiModalTaskEncoder, *, key: str = ""
) -> TokensView:
    """The tokens of a conversation alone; each placeholder counts as an image of one tile."""
    keys = {"__key__": key, "__restore_key__": (), "__subflavors__": {}}
    try:
        turns = read_messages(messages, encoder.rules.config.image_token.token_str)
    except NevaPrepError as error:
        return view_sample_tokens(FailedSample(**keys, error=error), encoder)
    images = [b""] * sum(turn.num_images for turn in turns)
    sample = ConversationSample(**keys, id=key, messages=list(messages), images=images, record={})
    return view_sample_tokens(sample, _with_one_tile(encoder))


def _with_one_tile(encoder: MultiModalTaskEncoder) -> MultiModalTaskEncoder:
    """The encoder for images that are not there: it asks no file for its tiles."""
    reader = make_pixel_reader(ImageConfig())
    twin = copy.copy(encoder)
    rules = replace(encoder.rules, reader=reader)
    twin.preparer = replace(encoder.preparer, rules=rules, reader=reader)
    return twin


def view_sample_tokens(sample: Any, encoder: MultiModalTaskEncoder) -> TokensView:
    """The tokens of a sample as energon gives it to the task encoder."""
    rules = ListeningRules(
        **{one.name: getattr(encoder.rules, one.name) for one in fields(TextRules)}
    )
    preparer = replace(encoder.preparer, rules=rules)
    error: NevaPrepError | None = None
    encoded: EncodedSample | None = None
    events: Mapping[str, int] = {}
    try:
        if isinstance(sample, FailedSample):
            raise sample.error
        prepared = preparer.tokens(sample)
        encoded, events = prepared.encoded, prepared.events
    except NevaPrepError as found:
        error = found
    traced = trace(rules, events)
    if encoded is None:
        encoded = _as_if_encoded(str(sample.__key__), traced, rules.counted, encoder.preparer.rows)
    tokens = () if encoded is None else lay_beside(encoded, traced, encoder)
    limit = rules.max_length
    return TokensView(
        key=str(sample.__key__),
        id=str(getattr(sample, "id", sample.__key__)),
        template=rules.heard[0].template.name if rules.heard else "",
        tokens=tokens,
        length=sum(
            token.embeddings for token in tokens[: _num_read(encoded, encoder.preparer.rows)]
        ),
        limit=None if limit is None else limit - 1,
        events=tuple(sorted(events.items())),
        error=None if error is None else str(error),
        reason=None if error is None else error.reason or type(error).__name__,
    )


@dataclass(frozen=True)
class Heard:
    """What a sample's encoder asked to be tokenized."""

    messages: Sequence[Mapping[str, Any]]
    template: ConversationTemplate


@dataclass(frozen=True)
class ListeningRules(TextRules):
    """The rules of training, which also note what is tokenized."""

    heard: list[Heard] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    """Tiles of each image, where a limit asks for them."""
    warns: ClassVar[bool] = False
    """Commands say it themselves, with the option that helps."""

    def encode(
        self,
        key: str,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Any],
        template: ConversationTemplate | None = None,
    ) -> EncodedText:
        """As TextRules has it."""
        self.heard.append(Heard(messages, template or self.template))
        return super().encode(key, messages, images, template)

    def _tiles(self, key: str, images: Sequence[Any]) -> list[int] | None:
        tiles = super()._tiles(key, images)
        self.counted.extend(tiles or [])
        return tiles


def trace(rules: ListeningRules, events: Mapping[str, int]) -> list[TracedToken]:
    """The token table of what was heard, without the turns that were dropped; empty if unknown."""
    if len(rules.heard) != 1:
        return []
    heard = rules.heard[0]
    kept = len(heard.messages) - events.get("dropped_turns", 0)
    try:
        return trace_conversation(
            heard.messages[:kept],
            tokenizer=rules.tokenizer,
            template=heard.template,
            image_token=rules.config.image_token,
            image_placement=rules.image_placement,
        )
    except NevaPrepError:
        return []  # Encoding failed for the same reason, which is shown.


def lay_beside(
    encoded: EncodedSample, traced: Sequence[TracedToken], encoder: MultiModalTaskEncoder
) -> tuple[TokenView, ...]:
    """The tokens of a sample, not shifted, each with the label that a batch has at its position."""
    config = encoder.preparer.rows
    ids = encoded.tokens
    _, labels = shift(encoded, config)
    labels = np.append(labels, np.full(len(ids) - len(labels), config.ignore_index))
    sizes = expanded_sizes(ids, encoded.num_tiles, config)
    starts = sizes.cumsum() - sizes
    # An answer that is cut leaves the rest of the table over.
    traced = traced[: len(ids)]
    known = [token.id for token in traced] == ids.tolist()
    spell = Speller(encoder)
    return tuple(
        spell.view(
            position=position,
            id=int(ids[position]),
            label=int(labels[position]),
            trained=bool(encoded.labels[position] != config.ignore_index),
            position_id=int(starts[position]),
            embeddings=int(sizes[position]),
            told=traced[position] if known else None,
        )
        for position in range(len(ids))
    )


class Speller:
    """Makes views of tokens, with the tokenizer's spelling."""

    def __init__(self, encoder: MultiModalTaskEncoder) -> None:
        """Take the tokenizer and the ids that are none of its own."""
        self._spell = tokenizer_of(encoder.rules.tokenizer).convert_ids_to_tokens
        self._image = encoder.rules.config.image_token
        self._ignored = encoder.preparer.rows.ignore_index

    def piece(self, number: int) -> str:
        """The tokenizer's spelling; the placeholder for an image, nothing where no loss is."""
        if number == self._image.token_id:
            return self._image.token_str
        return "" if number == self._ignored else str(self._spell(number))

    def view(
        self,
        *,
        position: int,
        id: int,
        label: int,
        trained: bool,
        position_id: int,
        embeddings: int,
        told: TracedToken | TokenView | None,
        rule: str = "",
    ) -> TokenView:
        """A token; `told` has its text, turn and rule, where they are known."""
        image = id == self._image.token_id
        guessed = rule or (IMAGE if image else ANSWER if trained else TEXT)
        return TokenView(
            position=position,
            id=id,
            piece=self.piece(id),
            text="" if told is None else told.text,
            label=label,
            label_piece=self.piece(label),
            trained=trained,
            rule=guessed if told is None else told.rule,
            turn=None if told is None else told.turn,
            position_id=position_id,
            embeddings=embeddings,
        )


def _as_if_encoded(
    key: str, traced: Sequence[TracedToken], counted: Sequence[int], config: RowConfig
) -> EncodedSample | None:
    """Tokens that training skips, to show what is wrong with them.

    Images have the tiles that were counted; one each, where that does not go up.
    """
    if len(traced) < 2:
        return None
    tokens = np.array([token.id for token in traced], np.int64)
    trained = np.array([token.trained for token in traced])
    slots = int((tokens == config.image_token_id).sum())
    return EncodedSample(
        key=key,
        tokens=tokens,
        labels=np.where(trained, tokens, config.ignore_index),
        num_tiles=np.array(counted if len(counted) == slots else [1] * slots, np.int64),
    )


def _num_read(encoded: EncodedSample | None, config: RowConfig) -> int:
    return 0 if encoded is None else len(shift(encoded, config)[0])
