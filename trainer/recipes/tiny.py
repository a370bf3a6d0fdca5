"""A NeVA of 230,000 weights that learns pictures of shapes on a laptop: for the demo and tests."""

from __future__ import annotations

from typing import Any

from ...loaders import MockDataModule
from ..config import MultimodalProjectorConfig, NevaConfig
from ..editable import Editable
from ..language_config import LanguageConfig
from ..lora import LoRA
from ..models import NevaModel
from ..optimizer import OptimizerSettings
from ..parallel_config import ComputeConfig
from ..recipe import (
    CheckpointSettings,
    LogSettings,
    Recipe,
    RestoreConfig,
    ResumeSettings,
    TrainerSettings,
)
from ..schedule import CosineAnnealing
from ..vision_config import VisionConfig
from .stages import LANGUAGE_LAYERS, has_adapters

EMBEDDINGS = 36
"""Of a picture of 48 x 48 pixels in patches of 8 x 8."""


def finetune_recipe(
    dir: str = "runs",
    name: str = "default",
    num_nodes: int = 1,
    num_gpus_per_node: int = 1,
    peft_scheme: str | None = "none",
    restore: str | None = None,
) -> Editable:
    """Everything is trained; with `lora`, adapters of what was trained so.

    Args:
        dir: gets a folder `name` with checkpoints and logs.
        name: of the run.
        num_nodes: machines.
        num_gpus_per_node: processes on each.
        peft_scheme: `lora` or `none`.
        restore: checkpoint to start from; None for random weights.

    Raises:
        ConfigError: there is no such scheme.
    """
    lora = has_adapters(peft_scheme)
    return Editable(
        Recipe(
            model=NevaModel(model_config()),
            data=mock_data(),
            log=LogSettings(
                dir=str(dir),
                name=name,
                ckpt=CheckpointSettings(every_n_train_steps=500, keep_last=2),
            ),
            trainer=TrainerSettings(
                max_steps=1500,
                val_check_interval=500,
                log_every_n_steps=25,
                num_nodes=num_nodes,
                devices=num_gpus_per_node,
                compute=ComputeConfig(precision="fp32"),
            ),
            optim=OptimizerSettings(
                lr=1e-3 if lora else 2e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.05
            ),
            lr_scheduler=CosineAnnealing(warmup_steps=100, min_lr=1e-4),
            peft=LoRA(target_modules=LANGUAGE_LAYERS, dim=32, alpha=64) if lora else None,
            resume=ResumeSettings(restore_config=RestoreConfig(path=restore)),
        )
    )


def model_config(vocab_size: int = 72, image_token_index: int = 4) -> NevaConfig:
    """The model: two layers each, 64 channels.

    Args:
        vocab_size: words, the image token included.
        image_token_index: that token's id.
    """
    # Wide draws: with so few channels, the usual small ones would take long to grow.
    return NevaConfig(
        language_transformer_config=LanguageConfig(
            num_layers=2,
            hidden_size=64,
            ffn_hidden_size=168,
            num_attention_heads=4,
            num_query_groups=4,
            vocab_size=vocab_size,
            seq_length=256,
            init_method_std=0.125,
        ),
        vision_transformer_config=VisionConfig(
            img_h=48,
            img_w=48,
            patch_dim=8,
            num_layers=2,
            hidden_size=64,
            ffn_hidden_size=256,
            num_attention_heads=4,
            init_method_std=0.125,
        ),
        vision_projection_config=MultimodalProjectorConfig(),
        vision_feature_layer=-1,
        image_token_index=image_token_index,
    )


def mock_data(**changes: Any) -> MockDataModule:
    """Random rows that the model can read."""
    settings: dict[str, Any] = {
        "seq_length": 64,
        "micro_batch_size": 4,
        "global_batch_size": 8,
        "num_workers": 0,
        "num_image_embeddings_per_tile": EMBEDDINGS,
        "vocab_size": 72,
        "image_size": (48, 48),
        "num_train_samples": 256,
        "num_val_samples": 16,
    }
    return MockDataModule(**settings | changes)
