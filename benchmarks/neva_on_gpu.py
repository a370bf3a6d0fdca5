"""LLaVA-1.5 as neva-prep trains it, for the benchmarks on GPUs: model, data, random weights."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

PACK = 8192
"""Positions of a pack."""
LORA_DIM = 32


def neva_config(name: str, options: argparse.Namespace, layers: int | None = None) -> Any:
    """The model that a variant trains."""
    from neva_prep.trainer import CLIPViTL_14_336_Config, Llava15Config7B, Llava15Config13B

    made = (Llava15Config13B if "13b" in name else Llava15Config7B)()
    made = replace(made, vision_transformer_config=CLIPViTL_14_336_Config())
    layers = layers or options.layers
    if layers:
        language = replace(made.language_transformer_config, num_layers=layers)
        made = replace(made, language_transformer_config=language)
    pretrain = "pretrain" in name
    return replace(made, freeze_language_model=pretrain, freeze_vision_model=True)


def make_data(
    name: str,
    options: argparse.Namespace,
    *,
    pack: bool,
    workers: int,
    rows: int = 1,
    batches: int = 1,
    length: int = PACK,
) -> Any:
    """A data module: packs, or padded batches of so many rows; `batches` of them make a step."""
    from transformers import AutoTokenizer

    from neva_prep.loaders import ImageConfig
    from neva_prep.trainer import ParallelConfig
    from neva_prep.trainer.hf_config import resolve
    from neva_prep.trainer.open_data import DataOptions, open_data

    processor = SimpleNamespace(
        tokenizer=AutoTokenizer.from_pretrained(options.tokenizer),
        image_processor=ImageConfig(mode="fast", output="uint8"),
    )
    pretrain = "pretrain" in name
    return open_data(
        DataOptions(
            path=options.captions if pretrain else options.data,
            template="plain" if pretrain else None,
            seq_length=length if pack else 4096,
            pack=pack,
            micro_batch_size=rows,
            global_batch_size=rows * batches * int(os.environ.get("WORLD_SIZE", 1)),
            num_workers=workers,
        ),
        processor,
        resolve(neva_config(name, options)),
        ParallelConfig(),
    )


def lora() -> Any:
    """Adapters of all matrices of the decoder."""
    from neva_prep.trainer import LoRA
    from neva_prep.trainer.recipes.stages import LANGUAGE_LAYERS

    return LoRA(target_modules=LANGUAGE_LAYERS, dim=LORA_DIM, alpha=LORA_DIM)


def build(
    config: Any,
    data: Any,
    peft: Any,
    *,
    load: Callable[..., Any] = lambda chunks: None,
    optimizer: dict[str, Any] | None = None,
    **compute: Any,
) -> Any:
    """What is trained, in bf16 unless `compute` says otherwise; `load` fills it with weights."""
    from neva_prep.trainer import ComputeConfig, ParallelConfig
    from neva_prep.trainer.build import build_training
    from neva_prep.trainer.match import image_statistics
    from neva_prep.trainer.optimizer import OptimizerSettings
    from neva_prep.trainer.ranks import start_ranks

    if not torch.distributed.is_initialized():
        start_ranks(ParallelConfig(), seed=1)
    return build_training(
        config,
        compute=ComputeConfig(**({"precision": "bf16", "initialize": False} | compute)),
        optimizer=OptimizerSettings(**({"lr": 1e-4} | (optimizer or {}))),
        peft=peft,
        load=load,
        **image_statistics(data),
    )


def fill_random(training: Any) -> None:
    """Weights on the GPU: drawing them on the CPU takes minutes."""
    from neva_prep.trainer.optimizer import parts_with_weights

    for name, weight in training.chunks[0].named_parameters():
        if "lora" in name:
            continue
        if weight.dim() == 1:
            weight.data.fill_(float("norm" in name or "ln_" in name) if "weight" in name else 0.0)
        else:
            weight.data.normal_(0, 0.02)
    # The optimizer has copies in float32.
    for part in parts_with_weights(training.optimizer):
        part.reload_model_params()


def train(training: Any, batches: Iterator[Any], packs: int, length: int = PACK) -> Any:
    """Train on the next packs."""
    from neva_prep.trainer.step import train_step

    return train_step(
        training, batches, num_micro_batches=packs, seq_length=length, micro_batch_size=1
    )
