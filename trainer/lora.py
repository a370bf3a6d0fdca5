"""LoRA: low-rank adapters beside megatron-core's parallel layers, attached in place.

y = x W + (alpha / dim) · x A B. A layer keeps its name and its weights' keys; `lora_a` and `lora_b`
come beside them. Over a tensor group they are cut as the layer is:

    layer                     lora_a [dim, in]    lora_b [out, dim]
    Column: cuts its output   on each rank        cut along out
    Row: cuts its input       cut along in        on each rank

Only `dim` numbers per token travel between ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch

from ..errors import ConfigError
from .compat import prepare_megatron
from .hf_load import global_name
from .lora_layer import attach

prepare_megatron()

from megatron.core.tensor_parallel.layers import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
)

_NEVER = ("embedding", "output_layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA:
    """Which layers get adapters, and what else is trained; NeMo's names."""

    target_modules: Sequence[str] = field(
        default_factory=lambda: ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]
    )
    """Names of layers, in all parts of the model, or patterns of whole names such as
    `*.language_model.*.linear_qkv` or `*.layers.0.*`; layers are counted over all stages."""
    dim: int = 32
    alpha: float = 32
    """Adapters count alpha / dim times."""
    dropout: float = 0.0
    """Of what adapters read, in training."""
    freeze_language_model: bool = True
    """These three decide what is trained beside the adapters, whatever the model's config says."""
    freeze_vision_model: bool = True
    freeze_vision_projection: bool = True

    def __post_init__(self) -> None:
        """Refuse adapters that are none."""
        if self.dim < 1:
            raise ConfigError(f"LoRA: dim={self.dim}: must be 1 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"LoRA: dropout={self.dropout}: must be from 0 to below 1")
        if isinstance(self.target_modules, str) or not self.target_modules:
            raise ConfigError(
                f"LoRA: target_modules={self.target_modules!r}: give a list of names or patterns"
            )


def add_lora(chunks: Sequence[Any], lora: LoRA, *, seed: int = 0) -> None:
    """Attach adapters that change nothing yet, and freeze what the settings freeze.

    Args:
        chunks: MCoreNevaModel; all stages of this rank. All ranks call it.
        lora: the settings.
        seed: of what adapters begin as; the same on all ranks.

    Raises:
        ConfigError: a pattern matches no layer on any stage.
    """
    for chunk in chunks:
        for part, frozen in (
            (chunk.language_model, lora.freeze_language_model),
            (chunk.vision_model, lora.freeze_vision_model),
            (chunk.vision_projection, lora.freeze_vision_projection),
        ):
            if part is not None:
                part.requires_grad_(not frozen)
    layers = list(layers_of(chunks))
    _check_patterns(lora.target_modules, [name for name, _ in layers])
    for name, layer in layers:
        if any(_matches(name, pattern) for pattern in lora.target_modules):
            scale = lora.alpha / lora.dim
            attach(layer, name, dim=lora.dim, scale=scale, dropout=lora.dropout, seed=seed)


def layers_of(chunks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Layers that can have adapters, under names whose layers are counted over all stages."""
    for chunk in chunks:
        for name, module in chunk.named_modules():
            if not isinstance(module, ColumnParallelLinear | RowParallelLinear):
                continue
            if not any(part in _NEVER for part in name.split(".")):
                yield global_name(chunk, f"{name}.weight").removesuffix(".weight"), module


def _matches(name: str, pattern: str) -> bool:
    """NeMo's models have a name in front, which `*.language_model` matches; ours is left out."""
    return name.rpartition(".")[2] == pattern or fnmatchcase(f"model.{name}", pattern)


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    gathered: list[Sequence[str]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, list(names))
    everywhere = {name for part in gathered for name in part}
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in everywhere):
            short = sorted({name.rpartition(".")[2] for name in everywhere})
            raise ConfigError(
                f"LoRA: target_modules: {pattern!r} matches no layer, so nothing would be adapted "
                f"by it; layers are called {', '.join(short)}, for example "
                f"{min(everywhere)}"
            )
