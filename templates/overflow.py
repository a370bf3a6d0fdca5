"""What to do with a conversation that is too long: refuse it, drop turns, or cut an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, PackError
from .messages import ROLES
from .sample import TokenizedSample

Overflow = Literal["error", "drop_last_turns", "truncate_answer"]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a sample may be, and what happens beyond."""

    max_length: int
    """Tokens, image embeddings included."""
    overflow: Overflow = "error"
    """`error` refuses the sample, `drop_last_turns` drops turns from the end until it fits,
    `truncate_answer` cuts inside an answer or after one, never in a question or an image."""
    image_embeddings: int | Sequence[int] = 576
    """Positions that an image takes: one number for all, or one for each in their order."""

    def __post_init__(self) -> None:
        embeddings = self.image_embeddings
        fewest = min(embeddings, default=1) if isinstance(embeddings, Sequence) else embeddings
        if self.max_length < 1 or fewest < 1:
            raise ConfigError(
                f"max_length {self.max_length} with {embeddings} embeddings an image: "
                "both must be at least 1"
            )
        if self.overflow not in ("error", "drop_last_turns", "truncate_answer"):
            raise ConfigError(
                f"overflow is {self.overflow!r}; "
                "give 'error', 'drop_last_turns' or 'truncate_answer'"
            )

    def length(self, sample: TokenizedSample) -> int:
        """Positions that a sample takes in the model."""
        embeddings = sum(self._embeddings(sample.num_images))
        return len(sample.tokens) - sample.num_images + embeddings

    def positions(self, sample: TokenizedSample, image_id: int) -> npt.NDArray[np.int64]:
        """int64[seq]: positions that the tokens up to each take, itself included."""
        sizes = np.ones(len(sample.tokens), np.int64)
        sizes[sample.tokens == image_id] = self._embeddings(sample.num_images)
        return sizes.cumsum()

    def _embeddings(self, num_images: int) -> Sequence[int]:
        """Of the first images; of one that is not there its slot, as the caller refuses it."""
        if not isinstance(self.image_embeddings, Sequence):
            return (self.image_embeddings,) * num_images
        known = tuple(self.image_embeddings[:num_images])
        return known + (1,) * (num_images - len(known))


def too_long(sample: TokenizedSample, limit: Limit, what: str = "") -> PackError:
    """The error for a sample that cannot be made to fit."""
    return PackError(
        f"conversation {sample.key!r} has {limit.length(sample)} tokens with its "
        f"{sample.num_images} images, the limit is {limit.max_length}{what}; raise max_length, "
        "drop the record or choose another overflow policy",
        reason="too_long",
    )


def drop_last_turns(
    sample: TokenizedSample,
    messages: Messages,
    encode: Callable[[Messages], TokenizedSample],
    limit: Limit,
) -> TokenizedSample:
    """The longest beginning of the conversation that ends in an answer and fits.

    Raises:
        PackError: not even the first answer fits.
    """
    for end in range(len(messages) - 1, 0, -1):
        if not _is_answer(messages[end - 1]):
            continue
        shorter = encode(messages[:end])
        if limit.length(shorter) <= limit.max_length and shorter.num_trained:
            events = Counter(shorter.events)
            events["dropped_turns"] += len(messages) - end
            events["dropped_images"] += sample.num_images - shorter.num_images
            return replace(shorter, events=dict(+events))
    raise too_long(sample, limit, " and not even its first answer fits")


def cut_answer(
    sample: TokenizedSample, trained: Sequence[tuple[int, int]], limit: Limit, image_id: int
) -> TokenizedSample:
    """The longest beginning that ends in or after an answer and fits.

    Args:
        sample: the whole conversation.
        trained: token spans of its answers.
        limit: what it must fit.
        image_id: the token of an image.

    Raises:
        PackError: the limit lies before the first answer.
    """
    is_image = sample.tokens == image_id
    positions = limit.positions(sample, image_id)
    room = int(np.searchsorted(positions, limit.max_length, side="right"))
    begun = [span for span in trained if span[0] < room]
    if not begun:
        raise too_long(sample, limit, " and lies before its first answer")
    _, stop = begun[-1]
    end = min(room, stop)
    events = Counter(sample.events)
    events["truncated_answer"] += end < stop
    events["dropped_tokens"] += len(sample.tokens) - end
    kept = int(is_image[:end].sum())
    events["dropped_images"] += sample.num_images - kept
    return replace(
        sample,
        tokens=sample.tokens[:end],
        labels=sample.labels[:end],
        num_images=kept,
        events=dict(+events),
    )


def _is_answer(message: Mapping[str, Any]) -> bool:
    return ROLES.get(message.get("role", message.get("from", ""))) == "assistant"
