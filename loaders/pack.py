"""The pack: several samples in one row, and where each begins.

    samples ──shift──▶ rows ──pad each to the alignment──▶ one row + bounds

docs/packing.md works an example by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, PackError
from ..templates.show_html import bar, facts
from .encoded import EncodedSample, Ints, RowConfig, align, check_images, expanded_sizes, shift

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One sample, shifted, or several; one entry per token, an image being one token."""

    tokens: Ints
    """int64[seq]"""
    labels: Ints
    """int64[seq]; what each token predicts."""
    position_ids: Ints
    """int64[seq]; place in the expanded sample, for an image that of its first embedding."""
    attention_mask: npt.NDArray[np.bool_]
    """bool[seq]; False at padding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pack:
    """Several samples in one row. Bounds count expanded positions, which the row does not have."""

    row: Row
    cu_seqlens: npt.NDArray[np.int32]
    """int32[num_samples + 1]; sums of the samples' true lengths, from 0."""
    cu_seqlens_padded: npt.NDArray[np.int32]
    """int32[num_samples + 1]; where each sample starts, padding counted, and the end."""
    max_seqlen: int
    """Positions of the longest sample, its padding included."""
    num_tiles: Ints
    """int64[num_images]; tiles per image."""
    pixels: tuple[Tensor, ...]
    """Tiles of each sample that brings a tensor."""
    keys: tuple[str, ...]
    origins: tuple[str, ...]

    def _repr_html_(self) -> str:
        """For notebooks: a bar of its samples."""
        sizes, padded = np.diff(self.cu_seqlens), np.diff(self.cu_seqlens_padded)
        known = {
            "positions": int(self.cu_seqlens_padded[-1]),
            "padding": int((padded - sizes).sum()),
            "samples": ", ".join(self.keys),
            "images": len(self.num_tiles),
            "tiles": int(self.num_tiles.sum()),
        }
        parts = zip(self.keys, sizes.tolist(), (padded - sizes).tolist(), strict=True)
        return facts("pack", known) + bar(parts)


def make_row(sample: EncodedSample, config: RowConfig) -> tuple[Row, int]:
    """The row of one sample without padding, and how many positions it takes in the model.

    Raises:
        RecordError: another number of image slots than of images.
        ImageError: images are not decoded.

    Example:
        Four embeddings stand in for the image, so the token after it is at position 5:

        >>> sample = EncodedSample(
        ...     key="a",
        ...     tokens=np.array([1, -200, 7, 8, 2]),
        ...     labels=np.array([-100, -100, -100, 8, 2]),
        ...     num_tiles=np.array([1]),
        ...     pixels=np.zeros((1, 3, 2, 2)),
        ... )
        >>> row, size = make_row(sample, RowConfig(num_image_embeddings_per_tile=4))
        >>> row.tokens.tolist(), row.labels.tolist()
        ([1, -200, 7, 8], [-100, -100, 8, 2])
        >>> row.position_ids.tolist(), size
        ([0, 1, 5, 6], 7)
    """
    check_images(sample, config)
    tokens, labels = shift(sample, config)
    sizes = expanded_sizes(tokens, sample.num_tiles, config)
    ends = sizes.cumsum()
    row = Row(
        tokens=tokens,
        labels=labels,
        position_ids=ends - sizes,
        attention_mask=np.ones(len(tokens), np.bool_),
    )
    return row, int(ends[-1])


def join_rows(made: Sequence[tuple[Row, int]], paddings: Sequence[int], config: RowConfig) -> Row:
    """Rows one after the other, each followed by so many pad tokens, which continue its positions.

    Args:
        made: rows, and how many positions each takes in the model.
        paddings: of each.
        config: pad token, and label where no loss is taken.
    """
    length = sum(len(row.tokens) for row, _ in made) + sum(paddings)
    whole = Row(
        tokens=np.full(length, config.pad_id),
        labels=np.full(length, config.ignore_index),
        position_ids=np.empty(length, np.int64),
        attention_mask=np.zeros(length, np.bool_),
    )
    start = 0
    for (row, size), padding in zip(made, paddings, strict=True):
        stop = start + len(row.tokens)
        whole.tokens[start:stop] = row.tokens
        whole.labels[start:stop] = row.labels
        whole.position_ids[start:stop] = row.position_ids
        whole.position_ids[stop : stop + padding] = np.arange(size, size + padding)
        whole.attention_mask[start:stop] = row.attention_mask
        start = stop + padding
    return whole


def build_pack(
    samples: Sequence[EncodedSample], config: RowConfig, *, pad_to: int | None = None
) -> Pack:
    """Put samples into one row.

    Args:
        samples: in the order they get in the row.
        config: pad token, alignment and so on.
        pad_to: positions that the row shall take in the model, for a model that wants all rows
            alike; the last sample's padding grows. None for no more than the alignment needs.

    Raises:
        PackError: no samples, or more than fit into `pad_to` positions.
        ConfigError: `pad_to` is no multiple of the alignment.
        RecordError: a sample has another number of image slots than of images.
        ImageError: a sample's images are not decoded.
    """
    if not samples:
        raise PackError("a pack of no samples: leave it out", reason="empty_pack")
    made = [make_row(sample, config) for sample in samples]
    sizes = [size for _, size in made]
    padded = [align(size, config.alignment) for size in sizes]
    if pad_to is not None:
        padded[-1] += _room(samples, padded, pad_to, config)
    paddings = [end - size for end, size in zip(padded, sizes, strict=True)]
    return Pack(
        row=join_rows(made, paddings, config),
        cu_seqlens=cu_seqlens(sizes),
        cu_seqlens_padded=cu_seqlens(padded),
        max_seqlen=max(padded),
        num_tiles=np.concatenate([sample.num_tiles for sample in samples]),
        pixels=tuple(sample.pixels for sample in samples if sample.pixels is not None),
        keys=tuple(sample.key for sample in samples),
        origins=tuple(sample.origin for sample in samples),
    )


def cu_seqlens(lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    """Boundaries of packed samples, for variable-length attention.

    Args:
        lengths: positions per sample, image embeddings included.

    Returns:
        int32[num_samples + 1], from 0 to the sum.

    Example:
        >>> cu_seqlens([3, 2]).tolist()
        [0, 3, 5]
    """
    return np.cumsum([0, *lengths], dtype=np.int32)


def _room(
    samples: Sequence[EncodedSample], padded: Sequence[int], pad_to: int, config: RowConfig
) -> int:
    """Positions left behind the last sample."""
    if pad_to % config.alignment:
        raise ConfigError(
            f"pad_to={pad_to}: the last sample would end outside the alignment of "
            f"{config.alignment}; use a multiple"
        )
    if sum(padded) > pad_to:
        raise PackError(
            f"pack of samples {samples[0].key} to {samples[-1].key}: takes {sum(padded)} positions "
            f"and the limit is {pad_to}; choose packs with this limit as pack_length",
            reason="pack_too_long",
        )
    return pad_to - sum(padded)
