"""LLaVA's two stages, for models of any size: the projector alone, then the whole or adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from ...errors import ConfigError
from ...loaders import MockDataModule
from ..config import NevaConfig
from ..editable import Editable
from ..lora import LoRA
from ..models import LlavaModel
from ..optimizer import OptimizerSettings
from ..parallel_config import ComputeConfig, ParallelConfig
from ..recipe import LogSettings, Recipe, RestoreConfig, ResumeSettings, TrainerSettings
from ..schedule import CosineAnnealing

PeftScheme = Literal["lora", "none"]
LANGUAGE_LAYERS = (
    "*.language_model.*.linear_qkv",
    "*.language_model.*.linear_proj",
    "*.language_model.*.linear_fc1",
    "*.language_model.*.linear_fc2",
)
"""All linear layers of the language model."""


def finetune(
    config: NevaConfig,
    *,
    dir: str,
    name: str,
    num_nodes: int,
    num_gpus_per_node: int,
    peft_scheme: str | None,
    restore: str | None,
    micro_batch_size: int,
    tensor_parallel: int,
) -> Editable:
    """The second stage: conversations, with LoRA or all of the language model.

    Args:
        config: the model.
        dir: gets a folder `name`.
        name: of the run.
        num_nodes: machines.
        num_gpus_per_node: processes on each.
        peft_scheme: `lora`, or `none` for the whole language model and the projector.
        restore: weights to start from.
        micro_batch_size: samples of a batch.
        tensor_parallel: ranks that share a layer where there are no adapters.

    Raises:
        ConfigError: there is no such scheme.
    """
    lora = has_adapters(peft_scheme)
    peft = LoRA(target_modules=LANGUAGE_LAYERS, freeze_vision_model=False) if lora else None
    # LLaVA keeps its vision encoder as it is when the language model is trained.
    config = replace(config, freeze_vision_model=not lora)
    return _recipe(
        config,
        dir=dir,
        name=name,
        trainer=_trainer(num_nodes, num_gpus_per_node, 1 if lora else tensor_parallel),
        lr=1e-4 if lora else 2e-5,
        schedule=CosineAnnealing(warmup_steps=150, min_lr=2e-7),
        peft=peft,
        restore=restore,
        micro_batch_size=micro_batch_size,
        global_batch_size=128,
    )


def pretrain(
    config: NevaConfig,
    *,
    dir: str,
    name: str,
    num_nodes: int,
    num_gpus_per_node: int,
    language_model: str | None,
    vision_model: str | None,
    micro_batch_size: int,
) -> Editable:
    """The first stage: captions, and only the projector is trained.

    Args:
        config: the model.
        dir: gets a folder `name`.
        name: of the run.
        num_nodes: machines.
        num_gpus_per_node: processes on each.
        language_model: folder or `hf://` name whose language model is taken.
        vision_model: the same for the vision encoder.
        micro_batch_size: samples of a batch.
    """
    config = replace(
        config,
        freeze_language_model=True,
        freeze_vision_model=True,
        language_model_from_pretrained=language_model,
        vision_model_from_pretrained=vision_model,
    )
    trainer = _trainer(num_nodes, num_gpus_per_node, 1)
    return _recipe(
        config,
        dir=dir,
        name=name,
        trainer=replace(trainer, max_steps=2170),
        lr=1e-3,
        schedule=CosineAnnealing(warmup_steps=65, min_lr=2e-5),
        peft=None,
        restore=None,
        micro_batch_size=micro_batch_size,
        global_batch_size=256,
    )


def has_adapters(peft_scheme: str | None) -> bool:
    """Whether a scheme is LoRA; None is `none`.

    Raises:
        ConfigError: there is no such scheme.
    """
    scheme = str(peft_scheme).lower()
    if scheme not in get_args(PeftScheme):
        raise ConfigError(f"peft_scheme={peft_scheme!r}: use 'lora' or 'none'")
    return scheme == "lora"


def _trainer(num_nodes: int, devices: int, tensor_parallel: int) -> TrainerSettings:
    return TrainerSettings(
        num_nodes=num_nodes,
        devices=devices,
        strategy=ParallelConfig(
            tensor_model_parallel_size=tensor_parallel, sequence_parallel=tensor_parallel > 1
        ),
        compute=ComputeConfig(precision="bf16"),
    )


def _recipe(
    config: NevaConfig,
    *,
    dir: str,
    name: str,
    trainer: TrainerSettings,
    lr: float,
    schedule: CosineAnnealing,
    peft: LoRA | None,
    restore: str | None,
    micro_batch_size: int,
    global_batch_size: int,
) -> Editable:
    data = MockDataModule(
        seq_length=4096, micro_batch_size=micro_batch_size, global_batch_size=global_batch_size
    )
    return Editable(
        Recipe(
            model=LlavaModel(config),
            data=data,
            log=LogSettings(dir=str(dir), name=name),
            trainer=trainer,
            optim=OptimizerSettings(
                lr=lr,
                use_distributed_optimizer=True,
                overlap_grad_reduce=True,
                overlap_param_gather=True,
            ),
            lr_scheduler=schedule,
            peft=peft,
            resume=ResumeSettings(restore_config=RestoreConfig(path=restore)),
        )
    )
