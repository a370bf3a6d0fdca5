"""The encoded sample: tokens, labels and image tiles of one conversation, and how long it is.

A row of tokens is *not expanded*: an image is one slot, whatever the number of its embeddings.
Lengths are *expanded*: the slot counts as all the embeddings that the model puts in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, ImageError, RecordError

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowConfig:
    """How samples are laid out in rows."""

    pad_id: int = 0
    """Token that fills what is left of a row; nothing is ever trained on it."""
    image_token_id: int = -200
    """Token of an image's slot."""
    ignore_index: int = -100
    """Label where no loss is taken."""
    num_image_embeddings_per_tile: int = 576
    """Positions that a tile takes once the model has put its embeddings in."""
    alignment: int = 1
    """A packed sample takes a multiple of so many positions: 2 · context parallel · tensor parallel
    size where the model splits each sample over ranks."""
    image_size: tuple[int, int] = (336, 336)
    """Height and width of the media of a batch that has no image."""

    def __post_init__(self) -> None:
        """Refuse numbers that no row can have."""
        for name in ("num_image_embeddings_per_tile", "alignment"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 1 or more")
        if self.pad_id == self.image_token_id:
            raise ConfigError(
                f"pad_id={self.pad_id}: is the image token's id, so padding would ask for images; "
                "use the tokenizer's pad token"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedSample:
    """One conversation with its images, ready to pack or to batch."""

    key: str
    """Shard key, unique within its dataset."""
    tokens: Ints
    """int64[seq]; the image token's id (-200) once per image."""
    labels: Ints
    """int64[seq]; ignore_index (-100) where no loss is taken. Not shifted."""
    num_tiles: Ints
    """int64[num_images]; tiles per image, in the order of the slots."""
    pixels: Tensor | None = None
    """uint8 or float[tiles, 3, height, width], the images' tiles one after another; None before
    the images are decoded, or without images."""
    origin: str = ""
    """Dataset that the key belongs to, where several are blended."""

    def __post_init__(self) -> None:
        """Refuse a sample that predicts nothing, or whose labels are not its tokens'."""
        if self.tokens.ndim != 1 or self.tokens.shape != self.labels.shape:
            raise RecordError(
                f"sample {self.key}: tokens have shape {self.tokens.shape} and labels "
                f"{self.labels.shape}; they must be one row of equal length",
                reason="labels_mismatch",
            )
        if len(self.tokens) < 2:
            raise RecordError(
                f"sample {self.key}: has {len(self.tokens)} tokens, and needs one to read and one "
                "to predict; drop the record",
                reason="empty_sample",
            )


def shift(sample: EncodedSample, config: RowConfig) -> tuple[Ints, Ints]:
    """Tokens and the labels that they predict. Here, and nowhere else, labels are shifted.

    Each token's label is the next token's: `tokens[:-1]` and `labels[1:]`. So the slot of an image
    predicts the first token after the image.

    A sample that ends in an image keeps its last slot, with ignore_index as its label: else there
    would be pixels without a slot.
    """
    if sample.tokens[-1] == config.image_token_id:
        return sample.tokens, np.append(sample.labels[1:], config.ignore_index)
    return sample.tokens[:-1], sample.labels[1:]


def expanded_sizes(tokens: Ints, num_tiles: Ints, config: RowConfig) -> Ints:
    """int64[seq]: positions that each token takes in the model; 1, and all embeddings of an image.

    Example:
        >>> config = RowConfig(num_image_embeddings_per_tile=4)
        >>> expanded_sizes(np.array([1, -200, 7]), np.array([2]), config).tolist()
        [1, 8, 1]
    """
    sizes = np.ones(len(tokens), np.int64)
    sizes[tokens == config.image_token_id] = num_tiles * config.num_image_embeddings_per_tile
    return sizes


def length(sample: EncodedSample, config: RowConfig) -> int:
    """Positions that a sample takes in a pack: shifted, image embeddings and alignment included."""
    read = len(sample.tokens) - int(sample.tokens[-1] != config.image_token_id)
    embeddings = int(sample.num_tiles.sum()) * config.num_image_embeddings_per_tile
    return align(read - len(sample.num_tiles) + embeddings, config.alignment)


def align(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`.

    Example:
        >>> align(9, 8), align(8, 8)
        (16, 8)
    """
    return -(-size // alignment) * alignment


def check_images(sample: EncodedSample, config: RowConfig) -> None:
    """Count slots, images and decoded tiles against each other.

    Raises:
        RecordError: another number of slots than of images.
        ImageError: tiles are missing or too many.
    """
    slots = np.count_nonzero(sample.tokens == config.image_token_id)
    if slots != len(sample.num_tiles):
        raise RecordError(
            f"sample {sample.key}: its tokens have {slots} image slots, and it has "
            f"{len(sample.num_tiles)} images; drop the record or give it the missing ones",
            reason="placeholder_mismatch",
        )
    tiles = int(sample.num_tiles.sum())
    decoded = 0 if sample.pixels is None else len(sample.pixels)
    if tiles != decoded:
        raise ImageError(
            f"sample {sample.key}: its images have {tiles} tiles, and {decoded} are decoded; "
            "decode its images before batching it",
            reason="tile_count",
        )
