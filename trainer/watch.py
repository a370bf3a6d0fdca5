"""Counts what a rank reads, between the loader and the step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from ..loaders.batch import Batch
from .parts import mark


@dataclass(slots=True, kw_only=True)
class Seen:
    """What one step read on this data-parallel rank."""

    keys: list[str] = field(default_factory=list)
    """Of the samples."""
    origins: list[str] = field(default_factory=list)
    """Their datasets."""
    wait_seconds: float = 0.0
    """Spent waiting for the loader."""
    rows: int = 0
    """Rows of batches; packs where they are packed."""
    positions: int = 0
    """Of samples."""
    squares: int = 0
    """Sum of the squares of their lengths."""
    tiles: int = 0


class Watch:
    """An iterator of batches that counts them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        """Count what comes of it."""
        self._batches = batches
        self._seen = Seen()

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        with mark("data"):
            batch = next(self._batches)
        seen = self._seen
        seen.wait_seconds += time.perf_counter() - start
        seen.keys += batch["__keys__"]
        seen.origins += batch["__origins__"]
        seen.rows += len(batch["tokens"])
        seen.tiles += len(batch["media"])
        lengths = sample_lengths(batch)
        seen.positions += int(lengths.sum())
        seen.squares += int((lengths * lengths).sum())
        return batch

    def take(self) -> Seen:
        """What was read since the last call."""
        seen, self._seen = self._seen, Seen()
        return seen


def sample_lengths(batch: Batch) -> torch.Tensor:
    """int64[samples]: positions of each, image embeddings included."""
    if "packed_seq_params" in batch:
        return batch["packed_seq_params"].cu_seqlens_q.long().diff()
    # The place of the last token that is none of the padding; nothing ends with an image.
    return (batch["position_ids"] + 1).where(batch["attention_mask"], 0).amax(1)
