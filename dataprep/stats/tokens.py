"""Tokens of the records, as the loader makes them: how long samples are, and what is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import NevaPrepError, RecordError, TemplateError
from ...templates.encode import encode_conversations
from ...templates.render import ConversationTemplate
from .item import Item
from .tally import Tally

if TYPE_CHECKING:
    from ...templates.sample import TokenizedSample

MAX_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizing:
    """How conversations become tokens."""

    tokenizer: Any
    """Of transformers, or a processor that has one."""
    template: ConversationTemplate
    front: bool = False
    """Whether images move before the text of their turn, as LLaVA does."""
    image_embeddings: int = 576
    """Positions that an image, as one tile, takes in the model."""


@dataclass(slots=True)
class TokenCounts:
    """What was counted of the tokens of one part of the records."""

    text: Tally = field(default_factory=Tally)
    """Tokens of each sample, images not counted."""
    positions: Tally = field(default_factory=Tally)
    """Positions of each sample in a pack, image embeddings included."""
    trained: Tally = field(default_factory=Tally)
    """Tokens of each sample on which loss is taken."""
    trained_percent: Tally = field(default_factory=Tally)
    """The same as a share of the text tokens, in whole percent, rounded down."""
    failures: Counter[str] = field(default_factory=Counter)
    """Reason -> records that have no tokens."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    """Reason code -> how often something was escaped or cut."""
    lengths: list[npt.NDArray[np.int32]] = field(default_factory=list)
    """int32[samples, 2]: positions and images of each sample, in order; for the forecast."""

    def merge(self, other: TokenCounts) -> None:
        """Add what was counted in another, later part."""
        for mine, others in zip(self.tallies(), other.tallies(), strict=True):
            mine.merge(others)
        self.failures.update(other.failures)
        self.events.update(other.events)
        for reason, messages in other.examples.items():
            kept = self.examples.setdefault(reason, [])
            kept += messages[: MAX_EXAMPLES - len(kept)]
        self.lengths += other.lengths

    def tallies(self) -> tuple[Tally, ...]:
        """All tallies, in an order that is always the same."""
        return self.text, self.positions, self.trained, self.trained_percent


def count_tokens(counts: TokenCounts, batch: Sequence[Item], how: Tokenizing) -> None:
    """Tokenize records and count their tokens."""
    rows = []
    for item, sample in zip(batch, _encode(batch, how), strict=True):
        try:
            rows.append(_measure(item, sample, how))
        except NevaPrepError as error:
            _fail(counts, error)
            continue
        assert not isinstance(sample, NevaPrepError)
        counts.events.update(sample.events)
    if not rows:
        return
    table = np.array(rows, np.int64)
    text, positions, trained, images = table.T.astype(np.uint64)
    counts.text.add(text)
    counts.positions.add(positions)
    counts.trained.add(trained)
    counts.trained_percent.add(100 * trained // np.maximum(text, np.uint64(1)))
    counts.lengths.append(np.stack([positions, images], axis=1).astype(np.int32))


def _encode(batch: Sequence[Item], how: Tokenizing) -> list[TokenizedSample | NevaPrepError]:
    """Each record's tokens, or why it has none."""
    try:
        return [*_encode_all(batch, how)]
    except NevaPrepError:
        # One record spoils its batch; the others are found one by one.
        return [_encode_one(item, how) for item in batch]


def _encode_one(item: Item, how: Tokenizing) -> TokenizedSample | NevaPrepError:
    try:
        return _encode_all([item], how)[0]
    except NevaPrepError as error:
        return error


def _encode_all(batch: Sequence[Item], how: Tokenizing) -> list[TokenizedSample]:
    return encode_conversations(
        [[{"from": turn.role, "value": turn.value} for turn in item.turns] for item in batch],
        tokenizer=how.tokenizer,
        template=how.template,
        image_placement="front" if how.front else "keep",
        keys=[item.key for item in batch],
    )


def _measure(
    item: Item, sample: TokenizedSample | NevaPrepError, how: Tokenizing
) -> tuple[int, int, int, int]:
    """Text tokens, positions, trained tokens and images of a sample."""
    from ...loaders.encoded import EncodedSample, RowConfig, length

    if isinstance(sample, NevaPrepError):
        raise sample
    images = sample.num_images
    if images != len(item.pictures):
        raise RecordError(
            f"{item.key}: the template leaves {images} places for {len(item.pictures)} images; "
            "look at the record with neva-prep explain",
            reason="placeholder_mismatch",
        )
    encoded = EncodedSample(
        key=item.key,
        tokens=sample.tokens,
        labels=sample.labels,
        num_tiles=np.ones(images, np.int64),
    )
    row = RowConfig(num_image_embeddings_per_tile=how.image_embeddings)
    text = len(sample.tokens) - images
    return text, length(encoded, row), sample.num_trained, images


def _fail(counts: TokenCounts, error: NevaPrepError) -> None:
    reason = error.reason or ("template" if isinstance(error, TemplateError) else "no_tokens")
    counts.failures[reason] += 1
    examples = counts.examples.setdefault(reason, [])
    if len(examples) < MAX_EXAMPLES:
        examples.append(str(error))
