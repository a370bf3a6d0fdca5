"""Models with adapters, and what they give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trainer_help import TINY, packed_batch, padded_batch

from neva_prep.loaders.batch import Batch
from neva_prep.trainer import NevaConfig, expand_batch
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.optimizer import OptimizerSettings
from neva_prep.trainer.step import train_step

LANGUAGE = [f"*.language_model.*.linear_{name}" for name in ("qkv", "proj", "fc1", "fc2")]
"""NeMo's, of its recipes."""


def build(peft: LoRA | None, config: NevaConfig = TINY) -> Training:
    torch.manual_seed(3)
    return build_training(config, peft=peft, optimizer=OptimizerSettings(lr=1e-2))


def train(training: Training, steps: int = 2) -> None:
    for _ in range(steps):
        train_step(
            training,
            iter([padded_batch(), packed_batch()]),
            num_micro_batches=2,
            seq_length=256,
            micro_batch_size=4,
        )


def logits(model: Any, batch: Batch | None = None) -> Tensor:
    expanded = expand_batch(batch or padded_batch(), num_image_embeddings_per_tile=16)
    with torch.no_grad():
        found: Tensor = model(**expanded.model_inputs() | {"labels": None})
    return found


def named(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def adapted(model: Any) -> set[str]:
    return {n.removesuffix(".lora_a") for n, _ in model.named_parameters() if n.endswith("lora_a")}


def stir(model: Any) -> None:
    """Adapters far from where they start."""
    torch.manual_seed(7)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
