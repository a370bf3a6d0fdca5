"""What is trained on one rank and on four: layouts, batches of the real loaders, same weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neva_prep.loaders.batch import Batch
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.config import NevaConfig
from neva_prep.trainer.fp8_layer import multiply_in_eight_bits
from neva_prep.trainer.fused.product import Frozen, Plain
from neva_prep.trainer.hf_load import global_name, own_piece
from neva_prep.trainer.language_config import LanguageConfig
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.optimizer import OptimizerSettings
from neva_prep.trainer.parallel_config import ComputeConfig, ParallelConfig
from neva_prep.trainer.share import reads_data
from neva_prep.trainer.step import StepResult, train_step
from neva_prep.trainer.vision_config import HFCLIPVisionConfig, VisionConfig

VOCABULARY = 512
LENGTH = {"padded": 128, "packed": 256}
ROWS = {"padded": 2, "packed": 1}
MICRO_BATCHES, STEPS = 4, 2
SHARED = int(os.environ.get("RANKS_ON_ONE_GPU", 0))
"""Ranks that share a GPU, over gloo, which NCCL refuses."""
RANKS = SHARED or min(4, torch.cuda.device_count() or 4)
"""Those that a layout does not use are data parallel. On GPUs each needs its own."""

CONFIG = NevaConfig(
    language_transformer_config=LanguageConfig(
        num_layers=4,
        hidden_size=32,
        ffn_hidden_size=48,
        num_attention_heads=4,
        num_query_groups=2,
        vocab_size=VOCABULARY,
        seq_length=256,
        add_qkv_bias=True,
    ),
    vision_transformer_config=VisionConfig(
        img_h=28,
        img_w=28,
        patch_dim=14,
        num_layers=3,
        hidden_size=24,
        ffn_hidden_size=40,
        num_attention_heads=4,
    ),
)
TIED = replace(
    CONFIG,
    language_transformer_config=replace(
        CONFIG.language_transformer_config, share_embeddings_and_output_weights=True
    ),
)
DIVISIBLE = replace(
    CONFIG,
    language_transformer_config=replace(CONFIG.language_transformer_config, ffn_hidden_size=64),
)
"""Products in eight bits take it."""
TOWER = replace(CONFIG, vision_transformer_config=HFCLIPVisionConfig(shape=CONFIG.vision_shape))
"""Hugging Face's vision tower, which no rank cuts."""

LAYOUTS: dict[str, ParallelConfig] = {
    "tp2": ParallelConfig(tensor_model_parallel_size=2),
    "tp2-sp": ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
    "pp2": ParallelConfig(pipeline_model_parallel_size=2),
    "pp2-vpp2": ParallelConfig(
        pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2
    ),
    "cp2": ParallelConfig(context_parallel_size=2),
    "dp4": ParallelConfig(),
    "tp2-pp2": ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2),
    "tp2-pp2-vpp2": ParallelConfig(
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=2,
        virtual_pipeline_model_parallel_size=2,
    ),
    "tp2-cp2-sp": ParallelConfig(
        tensor_model_parallel_size=2, context_parallel_size=2, sequence_parallel=True
    ),
}
DISTRIBUTED = OptimizerSettings(
    lr=1e-3,
    use_distributed_optimizer=True,
    overlap_grad_reduce=True,
    overlap_param_gather=True,
    bucket_size=5000,
)
"""Buckets so small that there are several."""
PLAIN = OptimizerSettings(lr=1e-3)
OVERLAPPED = replace(PLAIN, overlap_grad_reduce=True, bucket_size=5000)


@dataclass(frozen=True)
class Variant:
    """What is trained, in any layout."""

    rows: str
    """padded or packed"""
    config: NevaConfig = CONFIG
    peft: LoRA | None = None
    recompute: Any = None
    precision: Any = "fp32"
    products: bool = False
    """Over several ranks, layers multiply by functions that are put in, as those of fp8 are."""


VARIANTS = {
    **{f"{rows}-full": Variant(rows) for rows in ROWS},
    **{
        f"{rows}-frozen": Variant(rows, config=replace(CONFIG, freeze_vision_model=True))
        for rows in ROWS
    },
    **{f"{rows}-lora": Variant(rows, peft=LoRA(dim=4, alpha=8)) for rows in ROWS},
    "packed-lora-recompute": Variant("packed", peft=LoRA(dim=4, alpha=8), recompute="full"),
    "padded-tower": Variant("padded", config=TOWER),
    "padded-tied": Variant("padded", config=TIED),
    "padded-full-products": Variant("padded", config=DIVISIBLE, products=True),
    "packed-lora-products": Variant(
        "packed", config=DIVISIBLE, peft=LoRA(dim=4, alpha=8), products=True
    ),
    "packed-lora-fp8": Variant(
        "packed", config=DIVISIBLE, peft=LoRA(dim=4, alpha=8), precision="fp8"
    ),
    "packed-projector": Variant(
        "packed", config=replace(CONFIG, freeze_language_model=True, freeze_vision_model=True)
    ),
}


@dataclass(frozen=True)
class Case:
    """A variant in a layout."""

    layout: str
    variant: str
    distributed: bool = False

    @property
    def name(self) -> str:
        return f"{self.layout}-{self.variant}" + ("-distributed" if self.distributed else "")


def _core() -> list[Case]:
    return [
        Case(layout, variant, distributed=layout == "dp4")
        for layout in LAYOUTS
        for variant in ("padded-full", "packed-lora")
    ]


CORE = [
    *_core(),
    Case("pp2", "packed-lora-recompute"),
    # The second stage trains nothing.
    Case("pp2", "packed-projector", distributed=True),
    Case("tp2", "padded-tower"),
    *(
        Case(layout, variant)
        for layout in ("tp2", "tp2-sp", "pp2", "cp2")
        for variant in ("padded-full-products", "packed-lora-products")
    ),
]
ON_A_GPU = [Case(layout, "packed-lora-fp8") for layout in ("tp2", "tp2-sp")]
REST = [
    Case(layout, variant, distributed)
    for layout in LAYOUTS
    for variant in VARIANTS
    if VARIANTS[variant].precision == "fp32"
    for distributed in (False, True)
    if Case(layout, variant, distributed) not in CORE
    and (not distributed or variant in ("padded-full", "packed-lora"))
]


def train(
    case: Case | None, variant: Variant, weights: dict[str, Tensor], batches: Sequence[Batch]
) -> Iterator[tuple[Training, StepResult]]:
    """Each step of a case; None for one rank."""
    from megatron.core import parallel_state

    parallel = ParallelConfig() if case is None else LAYOUTS[case.layout]
    settings = OVERLAPPED
    if case is None or SHARED:
        settings = PLAIN
    elif case.distributed:
        settings = DISTRIBUTED
    training = build_training(
        variant.config,
        parallel=parallel,
        compute=ComputeConfig(recompute=variant.recompute, precision=variant.precision),
        optimizer=settings,
        peft=variant.peft,
        load=lambda chunks: fill(chunks, weights),
    )
    fill(training.chunks, weights)
    if case is not None and variant.products:
        for chunk in training.chunks:
            decoder = chunk.language_model.decoder
            multiply_in_eight_bits(decoder, frozen_as_it_is, lambda: F.linear)
    rank, size = (
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_data_parallel_world_size(),
    )
    own = iter(batches[rank::size]) if reads_data() else None
    for _ in range(STEPS):
        yield (
            training,
            train_step(
                training,
                own,
                num_micro_batches=MICRO_BATCHES // size,
                seq_length=LENGTH[variant.rows],
                micro_batch_size=ROWS[variant.rows],
            ),
        )


def frozen_as_it_is(layer: Any) -> Frozen | None:
    return None if layer.weight.requires_grad else Plain(layer.weight)


def fill(chunks: Sequence[Any], weights: dict[str, Tensor]) -> None:
    """Put the same weights into any layout."""
    for chunk in chunks:
        for name, weight in chunk.named_parameters():
            whole = weights[place_of(chunk, name)]
            with torch.no_grad():
                weight.copy_(own_piece(whole, weight, parts_of(name)))


def place_of(chunk: Any, name: str) -> str:
    """A weight's name on one rank, where an output layer that is the embedding has none."""
    tied = chunk.share_embeddings_and_output_weights
    if tied and name == "language_model.output_layer.weight":
        return "language_model.embedding.word_embeddings.weight"
    return global_name(chunk, name)


def parts_of(name: str) -> int:
    """Parts that a weight has along the cut dimension: a gate and what it gates."""
    gated = "language_model" in name and name.endswith(("linear_fc1.weight", "fc1.lora_b"))
    return 2 if gated else 1


def draw_weights(training: Training) -> dict[str, Tensor]:
    """Weights far from where they start, so that each one counts; adapters' too."""
    torch.manual_seed(5)
    return {
        name: torch.randn_like(weight) * 0.1 + (1.0 if weight.dim() == 1 else 0.0)
        for chunk in training.chunks
        for name, weight in chunk.named_parameters()
    }


def load_batches(folder: Path, rows: str) -> list[Batch]:
    """Batches of the real loaders, their words folded into a small vocabulary."""
    from loader_help import conversations, encoder, module

    path = folder / "conversations"
    if not path.exists():
        conversations(path)
    packed = rows == "packed"
    options: dict[str, Any] = {"pack_alignment": 8, "pad_packs": True} if packed else {}
    data = module(path, packed=packed, task_encoder=encoder(packed, **options))
    stream = iter(data.train_dataloader())
    found = [fold(next(stream)) for _ in range(MICRO_BATCHES * STEPS)]
    data.close()
    return found


def fold(batch: Batch) -> Batch:
    """Words modulo the small vocabulary; images and ignored labels stay."""
    made = dict(batch)
    for name in ("tokens", "labels"):
        ids = made[name]
        assert isinstance(ids, Tensor)
        made[name] = ids.where(ids < 0, ids % VOCABULARY)
    return made  # type: ignore[return-value]
