"""A NeVA model small enough for tests, batches for it, and one rank to run it on."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from neva_prep.loaders.batch import Batch
from neva_prep.loaders.collate import collate_pack, collate_padded
from neva_prep.loaders.encoded import EncodedSample, RowConfig
from neva_prep.loaders.pack import build_pack
from neva_prep.trainer import (
    LanguageConfig,
    MultimodalProjectorConfig,
    NevaConfig,
    VisionConfig,
)

TINY_LANGUAGE = LanguageConfig(
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=8,
    num_query_groups=4,
    vocab_size=128,
    seq_length=256,
)
TINY_VISION = VisionConfig(
    img_h=28,
    img_w=28,
    patch_dim=7,
    num_layers=3,
    hidden_size=48,
    ffn_hidden_size=80,
    num_attention_heads=4,
)
TINY = NevaConfig(
    language_transformer_config=TINY_LANGUAGE,
    vision_transformer_config=TINY_VISION,
    vision_projection_config=MultimodalProjectorConfig(),
    image_token_index=120,
)
"""16 embeddings per tile."""


def one_rank(seed: int = 1) -> None:
    """Make this process the only rank, once; later calls only seed."""
    from neva_prep.trainer.compat import prepare_megatron

    prepare_megatron()
    from megatron.core import parallel_state, tensor_parallel

    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    torch.manual_seed(seed)


def tiny_samples(
    config: NevaConfig = TINY, count: int = 6, *, vocab: int = 110, seed: int = 3
) -> list[EncodedSample]:
    """Conversations of several lengths: one image, two images, an image of two tiles, none."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        tiles = [[1], [1, 1], [2], []][number % 4]
        words = int(random.integers(9, 20))
        tokens = random.integers(1, vocab, words)
        tokens[1 : 1 + 2 * len(tiles) : 2] = -200
        labels = np.where((tokens < 0) | (np.arange(words) < 5), -100, tokens)
        pixels = random.standard_normal((sum(tiles), 3, *config.image_size), dtype=np.float32)
        made.append(
            EncodedSample(
                key=f"{number:04d}",
                tokens=tokens,
                labels=labels,
                num_tiles=np.array(tiles, np.int64),
                pixels=torch.from_numpy(pixels) if tiles else None,
            )
        )
    return made


def row_config(config: NevaConfig = TINY, **changes: Any) -> RowConfig:
    """The loaders' settings for a model."""
    made = RowConfig(
        num_image_embeddings_per_tile=config.num_image_embeddings_per_tile,
        image_size=config.image_size,
    )
    return replace(made, **changes)


def padded_batch(config: NevaConfig = TINY, count: int = 4, *, seed: int = 3) -> Batch:
    """Samples one below the other."""
    return collate_padded(tiny_samples(config, count, seed=seed), row_config(config))


def packed_batch(
    config: NevaConfig = TINY, count: int = 4, *, alignment: int = 1, seed: int = 3
) -> Batch:
    """The same samples in one row."""
    rows = row_config(config, alignment=alignment)
    return collate_pack(build_pack(tiny_samples(config, count, seed=seed), rows), rows)
