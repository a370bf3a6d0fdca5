"""A batch of the loaders, with an image as one slot, becomes the rows that the model reads.

A slot becomes as many positions as its image has embeddings. What a slot predicts, its last
position predicts:

    tokens      1  -200              7     8
    input_ids   1  -200 -200 -200    7     8      (3 embeddings per tile)
    image_index -1    0    1    2   -1    -1
    labels      .     .    .    7    8     .
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, PackError, RecordError
from ..loaders.batch import Batch, PackedSeqParams
from .zigzag import rank_positions

_IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpandedBatch:
    """What the model is given."""

    input_ids: Tensor
    """int64[batch, seq]; -200 wherever an image's embedding stands."""
    image_index: Tensor
    """int64[batch, seq]; number of the embedding that stands there, among those of all tiles;
    -1 for a word."""
    labels: Tensor
    """int64[batch, seq]; what each position predicts, -100 where no loss is taken."""
    loss_mask: Tensor
    """float32[batch, seq]; 1 where there is a label."""
    position_ids: Tensor
    """int64[batch, seq]; place in the sample."""
    media: Tensor
    """uint8 or float[tiles, 3, height, width]"""
    packed_seq_params: PackedSeqParams | None = None
    """Bounds of the samples, of a packed row."""

    def to(self, *args: Any, **kwargs: Any) -> ExpandedBatch:
        """A copy elsewhere; takes what `torch.Tensor.to` takes, but no dtype."""
        names = (*_ROWS, "media")
        moved: dict[str, Any] = {name: getattr(self, name).to(*args, **kwargs) for name in names}
        if self.packed_seq_params is not None:
            moved["packed_seq_params"] = self.packed_seq_params.to(*args, **kwargs)
        return replace(self, **moved)

    def model_inputs(self) -> dict[str, Any]:
        """Arguments of MCoreNevaModel.forward; media must be normalized."""
        packed = self.packed_seq_params
        return {
            "input_ids": self.input_ids,
            "image_index": self.image_index,
            "media": self.media,
            "labels": self.labels,
            "packed_seq_params": None if packed is None else packed.to_megatron(),
        }


_ROWS = ("input_ids", "image_index", "labels", "loss_mask", "position_ids")


def expand_batch(
    batch: Batch,
    *,
    num_image_embeddings_per_tile: int,
    multiple_of: int = 1,
    length: int | None = None,
    image_token_id: int = -200,
) -> ExpandedBatch:
    """The rows with a position per embedding.

    Args:
        batch: from the loaders, on the CPU.
        num_image_embeddings_per_tile: positions of a tile.
        multiple_of: padded rows end at a multiple of it; packed rows must, from the loaders.
        length: positions of a row; None for as many as the longest needs.
        image_token_id: token of an image's slot.

    Raises:
        RecordError: another number of slots than of images, or of tiles than the images have.
        PackError: a row is longer than `length`, or a packed row ends at no multiple.
    """
    # NumPy's one thread: torch's own sixteen, beside a loader's processes, take a hundred times
    # longer for as little as this.
    tokens = batch["tokens"].numpy()
    rows, width = tokens.shape
    sizes = _slot_sizes(batch, num_image_embeddings_per_tile, image_token_id)
    source = np.repeat(np.arange(rows * width), sizes)
    starts = sizes.cumsum() - sizes
    offset = np.arange(len(source)) - starts[source]
    is_last = offset == sizes[source] - 1
    is_image = tokens.ravel()[source] == image_token_id

    row_sizes = sizes.reshape(rows, width).sum(1)
    columns = _row_length(batch, int(row_sizes.max()), multiple_of, length)
    row_starts = row_sizes.cumsum() - row_sizes
    row = source // width
    place = row * columns + np.arange(len(source)) - row_starts[row]

    def lay(values: np.ndarray, fill: int | np.ndarray) -> Tensor:
        laid = np.empty((rows, columns), values.dtype)
        laid[...] = fill
        laid.reshape(-1)[place] = values
        return torch.from_numpy(laid)

    def per_slot(name: Literal["labels", "position_ids"]) -> np.ndarray:
        chosen: np.ndarray = batch[name].numpy().ravel()[source]
        return chosen

    labels = lay(np.where(is_last, per_slot("labels"), _IGNORED), _IGNORED)
    return ExpandedBatch(
        input_ids=lay(tokens.ravel()[source], 0),
        image_index=lay(np.where(is_image, is_image.cumsum() - 1, -1), -1),
        labels=labels,
        loss_mask=(labels != _IGNORED).to(torch.float32),
        position_ids=lay(per_slot("position_ids") + offset, np.arange(columns)),
        media=batch["media"],
        packed_seq_params=batch.get("packed_seq_params"),
    )


def slice_for_context(batch: ExpandedBatch, size: int, rank: int) -> ExpandedBatch:
    """The positions of one context-parallel rank; media and bounds stay whole.

    Raises:
        PackError: a sample, or a padded row, does not divide into 2 · size pieces.
    """
    if size == 1:
        return batch
    bounds = [0, batch.input_ids.shape[1]]
    if batch.packed_seq_params is not None:
        bounds = batch.packed_seq_params.cu_seqlens_q_padded.tolist()
    held = rank_positions(bounds, size, rank)
    return replace(batch, **{name: getattr(batch, name)[:, held] for name in _ROWS})


def labelled_positions(labels: Tensor) -> Tensor:
    """int64[positions with a label], among batch · seq; waits for a device."""
    return (labels.reshape(-1) >= 0).nonzero()[:, 0]


def _slot_sizes(batch: Batch, per_tile: int, image_token_id: int) -> np.ndarray:
    """int64[batch · seq]: positions that each token becomes."""
    tokens, tiles = batch["tokens"].numpy().ravel(), batch["num_media_tiles"].numpy()
    slots = tokens == image_token_id
    where = f"batch of samples {', '.join(batch['__keys__'])}"
    if slots.sum() != len(tiles):
        raise RecordError(
            f"{where}: {slots.sum()} image slots and {len(tiles)} images; each image needs its "
            "slot",
            reason="image_count",
        )
    if tiles.sum() != len(batch["media"]):
        raise RecordError(
            f"{where}: num_media_tiles counts {tiles.sum()} tiles and media has "
            f"{len(batch['media'])}",
            reason="image_count",
        )
    sizes = np.ones(len(tokens), np.int64)
    sizes[slots] = tiles * per_tile
    return sizes


def _row_length(batch: Batch, longest: int, multiple_of: int, length: int | None) -> int:
    packed = batch.get("packed_seq_params")
    if packed is not None:
        if longest != int(packed.cu_seqlens_q_padded[-1]):
            raise ConfigError(
                f"packed row: {longest} positions, and its bounds end at "
                f"{int(packed.cu_seqlens_q_padded[-1])}; the loaders and the model must have the "
                "same num_image_embeddings_per_tile"
            )
        if longest % multiple_of or length not in (None, longest):
            raise PackError(
                f"packed row of {longest} positions: the model needs "
                f"{length or f'a multiple of {multiple_of}'}; set the loaders' alignment",
                reason="pack_too_long",
            )
        return longest
    if length is not None:
        if longest > length:
            raise PackError(
                f"batch of samples {', '.join(batch['__keys__'])}: a row takes {longest} positions "
                f"and the limit is {length}; make seq_length larger",
                reason="pack_too_long",
            )
        return length
    return -(-longest // multiple_of) * multiple_of
