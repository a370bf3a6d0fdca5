"""A recipe: all that a training run is made of. Its parts have NeMo's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .lora import LoRA
from .models import NevaModel
from .optimizer import OptimizerSettings
from .parallel_config import ComputeConfig, ParallelConfig
from .schedule import CosineAnnealing
from .values import check_values


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """How long, how often, on what."""

    max_steps: int = 5190
    val_check_interval: int = 1000
    """Steps between validations; 0 for none."""
    limit_val_batches: int | None = 10
    """Most steps of a validation; None for the whole split."""
    log_every_n_steps: int = 1
    """Steps between lines on the terminal; the log has every step."""
    profile: bool = False
    """Measure where the time of some steps goes; the figures lie in `dir/name/profile/`."""
    num_nodes: int = 1
    devices: int = 1
    """Processes per node, of one GPU each."""
    strategy: ParallelConfig = field(default_factory=ParallelConfig)
    compute: ComputeConfig = field(default_factory=lambda: ComputeConfig(precision="bf16"))

    def __post_init__(self) -> None:
        """Refuse a run of nothing."""
        for name in ("max_steps", "log_every_n_steps", "num_nodes", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"trainer: {name}={getattr(self, name)}: must be 1 or more")
        if self.val_check_interval < 0:
            raise ConfigError(
                f"trainer: val_check_interval={self.val_check_interval}: must be 1 or more, or 0 "
                "for no validation"
            )
        if self.limit_val_batches is not None and self.limit_val_batches < 1:
            raise ConfigError(
                f"trainer: limit_val_batches={self.limit_val_batches}: must be 1 or more; None is "
                "the whole split, and val_check_interval=0 is no validation"
            )

    @property
    def world_size(self) -> int:
        """Processes of the run."""
        return self.num_nodes * self.devices


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """When the run is saved. The last step is always saved."""

    every_n_train_steps: int = 1000
    keep_last: int = 2
    """Older checkpoints are deleted; 0 keeps all."""
    async_save: bool = False
    """Write while training goes on."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.every_n_train_steps < 1 or self.keep_last < 0:
            raise ConfigError(
                f"ckpt: every_n_train_steps={self.every_n_train_steps}, keep_last="
                f"{self.keep_last}: must be 1 or more, and 0 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Where the run writes: `dir/name/` with checkpoints/, train.jsonl and tensorboard/."""

    dir: str
    name: str = "default"
    ckpt: CheckpointSettings = field(default_factory=CheckpointSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreConfig:
    """Which weights a new run starts from."""

    path: str | None = None
    """A checkpoint, or `hf://owner/name` of a model that was imported; None for random weights."""
    adapter_path: str | None = None
    """A folder in PEFT's format, whose adapters of that model the recipe's begin as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSettings:
    """Where a run begins."""

    resume_if_exists: bool = True
    """Go on from the last checkpoint of `dir/name`, if there is one."""
    restore_config: RestoreConfig = field(default_factory=RestoreConfig)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run."""

    model: NevaModel
    data: Any
    """A data module of neva_prep.loaders."""
    log: LogSettings
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optim: OptimizerSettings = field(default_factory=OptimizerSettings)
    lr_scheduler: CosineAnnealing = field(default_factory=CosineAnnealing)
    peft: LoRA | None = None
    """Adapters; None trains the weights that the model's config does not freeze."""
    resume: ResumeSettings = field(default_factory=ResumeSettings)
    processor: str | None = None
    """Folder with the tokenizer's and processor's files, kept with checkpoints for export; those of
    the weights that the run starts from unless given."""
    seed: int = 1234
    """Of weights and dropout; the data module has its own."""

    def __post_init__(self) -> None:
        """Refuse values that their fields cannot have, at any depth."""
        check_values(self)
