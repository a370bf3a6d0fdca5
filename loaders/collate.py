"""Collating: samples or a pack become a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError, PackError
from .batch import Batch, PackedSeqParams
from .encoded import EncodedSample, Ints, RowConfig
from .pack import Pack, Row, join_rows, make_row


def collate_padded(samples: Sequence[EncodedSample], config: RowConfig) -> Batch:
    """One row per sample, as wide as the longest; a batch that is not packed.

    Samples with and without images go together.

    Raises:
        PackError: no samples.
        RecordError: a sample has another number of image slots than of images.
        ImageError: images are not decoded, or differ in size or type.
    """
    if not samples:
        raise PackError("a batch of no samples: leave it out", reason="empty_pack")
    made = [make_row(sample, config) for sample in samples]
    lengths = [len(row.tokens) for row, _ in made]
    rows = join_rows(made, [max(lengths) - length for length in lengths], config)
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    keys = [sample.key for sample in samples]
    num_tiles = np.concatenate([sample.num_tiles for sample in samples])
    origins = [sample.origin for sample in samples]
    return _batch(rows, len(made), pixels, num_tiles, keys, origins, config)


def collate_pack(pack: Pack, config: RowConfig) -> Batch:
    """A batch of one row, which is the pack: its attention is bounded by `packed_seq_params`.

    Raises:
        ImageError: images differ in size or type.
    """
    batch = _batch(
        pack.row, 1, list(pack.pixels), pack.num_tiles, list(pack.keys), list(pack.origins), config
    )
    true, padded = torch.from_numpy(pack.cu_seqlens), torch.from_numpy(pack.cu_seqlens_padded)
    batch["packed_seq_params"] = PackedSeqParams(
        cu_seqlens_q=true,
        cu_seqlens_kv=true,
        cu_seqlens_q_padded=padded,
        cu_seqlens_kv_padded=padded,
        max_seqlen_q=pack.max_seqlen,
        max_seqlen_kv=pack.max_seqlen,
    )
    return batch


def _batch(
    rows: Row,
    count: int,
    pixels: Sequence[Tensor],
    num_tiles: Ints,
    keys: list[str],
    origins: list[str],
    config: RowConfig,
) -> Batch:
    """The batch of so many rows of one length, which lie one after the other."""
    tokens, labels, position_ids, attention_mask = (
        torch.from_numpy(values).view(count, -1)
        for values in (rows.tokens, rows.labels, rows.position_ids, rows.attention_mask)
    )
    return {
        "tokens": tokens,
        "labels": labels,
        "loss_mask": (labels != config.ignore_index).to(torch.float32),
        "position_ids": position_ids,
        "attention_mask": attention_mask,
        "media": _media(pixels, keys, config),
        "num_media_tiles": torch.from_numpy(num_tiles.astype(np.int64)),
        "__keys__": keys,
        "__origins__": origins,
    }


def _media(pixels: Sequence[Tensor], keys: Sequence[str], config: RowConfig) -> Tensor:
    """Float or uint8[tiles, 3, height, width]: all tiles; without any, none of that shape."""
    kinds = {(tuple(tiles.shape[1:]), tiles.dtype) for tiles in pixels}
    if len(kinds) > 1:
        raise ImageError(
            f"batch of samples {', '.join(keys)}: tiles of different size or type: "
            f"{sorted(map(str, kinds))}; process all images alike",
            reason="tile_shape",
        )
    return torch.cat(list(pixels)) if pixels else torch.empty(0, 3, *config.image_size)
