"""How samples lie in the rows of a batch, told from the batch itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import NevaPrepError
from ...loaders.encoded import Ints, expanded_sizes
from .view import PackView, Segment

if TYPE_CHECKING:
    from ...loaders.batch import Batch
    from ...loaders.encoded import RowConfig
    from ...loaders.task_encoder import MultiModalTaskEncoder
    from .open import Looked


Bounds = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowNumbers:
    """One row of a batch as arrays."""

    tokens: Ints
    labels: Ints
    sizes: Ints
    """int64[seq]; positions that each token takes in the model."""
    read: Any
    """bool[seq]; False at padding."""
    bounds: Bounds
    """(start, end, padded end) of each sample, in positions of the model."""
    keys: tuple[str, ...]
    origins: tuple[str, ...]

    @property
    def starts(self) -> Ints:
        """int64[seq]; position of the model at which each token begins."""
        starts: Ints = self.sizes.cumsum() - self.sizes
        return starts

    def slices(self) -> Iterator[slice]:
        """Tokens of each sample in the row, its padding included."""
        starts = self.starts
        for start, _, padded_end in self.bounds:
            first, last = np.searchsorted(starts, (start, padded_end))
            yield slice(int(first), int(last))


def view_packs(
    data_module: Any, looked: Looked | None = None, *, steps: range = range(1)
) -> Iterator[PackView]:
    """The rows of the batches that a data module gives to the trainer.

    Args:
        data_module: with `train_dataloader()` and `task_encoder`; the caller closes it.
        looked: the same dataset, for the names of images.
        steps: which batches, counted from where its stream is.
    """
    encoder = data_module.task_encoder
    for _, batch in take(data_module, steps):
        for row in rows_of(batch, encoder.preparer.rows):
            yield view_pack(row, encoder, looked)


def take(data_module: Any, steps: range) -> Iterator[tuple[int, Batch]]:
    """Batches of a data module's training stream, with their numbers."""
    stream = data_module.train_dataloader()
    for step in range(steps.stop):
        batch = next(stream)
        if step in steps:
            yield step, batch


def rows_of(batch: Batch, config: RowConfig) -> list[RowNumbers]:
    """The rows of a batch, each with the samples in it."""
    tokens = batch["tokens"].numpy()
    sizes = expanded_sizes(tokens.reshape(-1), batch["num_media_tiles"].numpy(), config).reshape(
        tokens.shape
    )
    read = batch["attention_mask"].numpy()
    keys, origins = tuple(batch["__keys__"]), tuple(batch["__origins__"])
    params = batch.get("packed_seq_params")
    rows = []
    for number in range(len(tokens)):
        if params is None:
            total = int(sizes[number].sum())
            bounds: Bounds = ((0, int(sizes[number][read[number]].sum()), total),)
            mine = slice(number, number + 1)
        else:
            bounds = tuple(
                _bounds(params.cu_seqlens_q.tolist(), params.cu_seqlens_q_padded.tolist())
            )
            mine = slice(None)
        rows.append(
            RowNumbers(
                tokens=tokens[number],
                labels=batch["labels"][number].numpy(),
                sizes=sizes[number],
                read=read[number],
                bounds=bounds,
                keys=keys[mine] or ("",) * len(bounds),
                origins=origins[mine] or ("",) * len(bounds),
            )
        )
    return rows


def view_pack(
    row: RowNumbers, encoder: MultiModalTaskEncoder, looked: Looked | None = None
) -> PackView:
    """A row as bars."""
    config, packer = encoder.preparer.rows, encoder.preparer.packer
    segments = []
    samples = zip(row.keys, row.origins, row.bounds, row.slices(), strict=True)
    for key, origin, (start, end, padded_end), part in samples:
        images = int((row.tokens[part] == config.image_token_id).sum())
        segments.append(
            Segment(
                key=key,
                origin=origin,
                start=start,
                end=end,
                padded_end=padded_end,
                num_trained=int((row.labels[part] != config.ignore_index).sum()),
                images=_image_names(key, images, looked),
            )
        )
    return PackView(
        capacity=int(row.sizes.sum()),
        segments=tuple(segments),
        limit=None if packer is None else packer.pack_length,
    )


def _bounds(true: Sequence[int], padded: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Where each sample starts, ends, and its padding ends.

    Example:
        >>> list(_bounds([0, 6, 9], [0, 8, 12]))
        [(0, 6, 8), (8, 11, 12)]
    """
    for number in range(len(true) - 1):
        start = padded[number]
        yield start, start + true[number + 1] - true[number], padded[number + 1]


def _image_names(key: str, images: int, looked: Looked | None) -> tuple[str, ...]:
    if looked is not None and images:
        # One of another dataset of a blend, say, is not found: its images have numbers alone.
        with suppress(NevaPrepError):
            found = looked.sample(looked.find(key=key)).images
            return tuple(image.name for image in found[:images])
    return tuple(f"image {number}" for number in range(images))
