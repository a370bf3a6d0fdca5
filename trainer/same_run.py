"""What may not change while a run goes on: what is trained, and how the optimizer keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .config import NevaConfig
from .lora import LoRA
from .recipe import Recipe

_FREEZES = ("freeze_language_model", "freeze_vision_model", "freeze_vision_projection")


def kept_settings(recipe: Recipe) -> dict[str, Any]:
    """In what form the optimizer's state is kept, for training.json."""
    return {
        # Of fp8, too, weights are bfloat16.
        "trainer.compute.precision": "fp32"
        if recipe.trainer.compute.precision == "fp32"
        else "bf16",
        "optim.use_distributed_optimizer": recipe.optim.use_distributed_optimizer,
    }


def check_same_run(
    recipe: Recipe, checkpoint: Path, neva: NevaConfig, lora: LoRA | None, kept: dict[str, Any]
) -> None:
    """Refuse to go on with other settings than a checkpoint was trained with.

    Args:
        recipe: of the run.
        checkpoint: for the message.
        neva: the model's config in the checkpoint.
        lora: its adapters.
        kept: what `kept_settings` gave then; checkpoints of earlier versions have none of it.

    Raises:
        ConfigError: the message has all that differs.
    """
    ours = _trained(recipe.model.config, recipe.peft)
    theirs = _trained(neva, lora)
    ours |= {name: value for name, value in kept_settings(recipe).items() if name in kept}
    theirs |= {name: kept[name] for name in ours if name in kept}
    differing = [
        f"{name}={value} and there {theirs[name]}"
        for name, value in ours.items()
        # With adapters and without, the rest has nothing to be compared with.
        if name in theirs and value != theirs[name]
    ]
    if differing:
        raise ConfigError(
            f"{checkpoint}: was trained with other settings: {'; '.join(differing)}; use the same "
            f"to go on, or start another run from its weights: --name OTHER --from {checkpoint}"
        )


def _trained(neva: NevaConfig, lora: LoRA | None) -> dict[str, Any]:
    """What decides which weights are trained, and how much adapters count."""
    if lora is None:
        return {"peft": "none"} | {f"model.config.{name}": getattr(neva, name) for name in _FREEZES}
    return {
        "peft": "lora",
        "peft.dim": lora.dim,
        "peft.alpha": lora.alpha,
        "peft.target_modules": sorted(set(lora.target_modules)),
    } | {f"peft.{name}": getattr(lora, name) for name in _FREEZES}
