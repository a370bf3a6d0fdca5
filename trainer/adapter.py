"""Adapters to PEFT's format: adapter_config.json and adapter_model.safetensors.

One of our layers is several of theirs: linear_qkv is q_proj, k_proj and v_proj, linear_fc1 is
gate_proj and up_proj. All read the same input, so each takes our A as it is, and its rows of our B.
The way back is in adapter_read.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .config import NevaConfig
from .hf_load import global_name
from .hf_map import model_ties
from .hf_write import UNUSED, unused_weights
from .merge import adapted_layers

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
BEFORE = "base_model.model."
"""What PEFT puts before the names of a model's weights."""
_PARTS = {"vision_model.": "vision_tower", "vision_projection.": "multi_modal_projector"}


def write_adapter(
    chunks: Sequence[Any],
    folder: Path,
    *,
    base_model: str | None = None,
    dropout: float = 0.0,
    files: Path | None = None,
) -> None:
    """Write the adapters of all ranks; all ranks call it, the first one writes.

    A projector or a vision encoder that is trained beside the adapters comes with them, as PEFT's
    `modules_to_save`.

    Args:
        chunks: MCoreNevaModel with adapters; this rank's stages.
        folder: made here.
        base_model: folder or name of the Hugging Face model that the adapters belong to.
        dropout: with which they were trained.
        files: folder with the import's `unused.safetensors`: PEFT takes a vision encoder only with
            the layers behind its features; without them they are zeros.

    Raises:
        ConfigError: there are no adapters, or what is trained beside them does not fit the format.
    """
    adapters, beside = _collect(chunks)
    if not adapters:
        raise ConfigError("there are no adapters to write; train with LoRA, or export the model")
    ties = {tie.ours: tie for tie in model_ties(chunks[0].neva)}
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    scales: dict[str, float] = {}
    for name, (a, b, scale) in adapters.items():
        tie = _of(ties, f"{name}.weight")
        for theirs, rows in zip(tie.theirs, tie.split(b), strict=True):
            module = f"model.{theirs.removesuffix('.weight')}"
            # Tensors that share memory cannot be written.
            tensors[f"{BEFORE}{module}.lora_A.weight"] = a.clone()
            tensors[f"{BEFORE}{module}.lora_B.weight"] = rows.clone()
            ranks[module], scales[module] = len(a), scale
    for name, weight in beside.items():
        tie = _of(ties, name)
        for theirs, rows in zip(tie.theirs, tie.split(weight), strict=True):
            tensors[f"{BEFORE}model.{theirs}"] = rows.clone()
    saved = _saved_parts(beside, list(ranks))
    if "vision_tower" in saved:
        tensors |= _behind_features(chunks[0].neva, beside, files)
    if torch.distributed.get_rank() == 0:
        _write(folder, tensors, _settings(ranks, scales, saved, base_model, dropout))


def _behind_features(
    neva: NevaConfig, beside: dict[str, Tensor], files: Path | None
) -> dict[str, Tensor]:
    """The vision encoder's weights that our model has no use for, under PEFT's names."""
    rest = unused_weights(neva, beside, None if files is None else files / UNUSED)
    dtype = next(iter(beside.values())).dtype
    return {
        f"{BEFORE}model.{name}": weight.to(dtype)
        for name, weight in rest.items()
        if name.startswith("vision_tower.")
    }


def _of(ties: dict[str, Any], name: str) -> Any:
    if name not in ties:
        raise ConfigError(
            f"{name!r} has no counterpart in Hugging Face's model, so PEFT cannot hold what it "
            "learned; export the model, or adapt other layers"
        )
    return ties[name]


def _collect(
    chunks: Sequence[Any],
) -> tuple[dict[str, tuple[Tensor, Tensor, float]], dict[str, Tensor]]:
    """Adapters, and the weights that are trained beside them, whole and of all stages."""
    adapters: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name, layer in adapted_layers(chunks):
        a, b = whole_weight(layer.lora_a), whole_weight(layer.lora_b, layer.lora_parts)
        adapters[name] = (a.cpu(), b.cpu(), layer.lora_scale)
    beside = {
        global_name(chunk, name): whole_weight(weight).cpu()
        for chunk in chunks
        for name, weight in chunk.named_parameters()
        if weight.requires_grad and ".lora_" not in name
    }
    stages: list[Any] = [None] * torch.distributed.get_world_size()
    mine = (adapters, beside) if _first_of_stage() else ({}, {})
    torch.distributed.all_gather_object(stages, mine)
    for others, other_weights in stages:
        adapters |= others
        beside |= other_weights
    return adapters, beside


def _first_of_stage() -> bool:
    """Whether this rank tells the others what its stage has; its tensor and data ranks have it."""
    from megatron.core import parallel_state

    across = parallel_state.get_data_parallel_group(with_context_parallel=True)
    within = parallel_state.get_tensor_model_parallel_rank()
    return bool(across.rank() == 0 and within == 0)


def whole_weight(weight: Any, parts: int = 1) -> Tensor:
    """A weight over all tensor ranks, which all call it.

    Args:
        weight: this rank's, which says along which dimension it is cut.
        parts: equal parts along it, each of which is cut by itself.
    """
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    mine: Tensor = weight.detach()
    if not getattr(weight, "tensor_model_parallel", False) or group.size() == 1:
        return mine
    pieces = [torch.empty_like(mine) for _ in range(group.size())]
    torch.distributed.all_gather(pieces, mine.contiguous(), group=group)
    dim: int = weight.partition_dim
    cut = [piece.chunk(parts, dim) for piece in pieces]
    return torch.cat([rank[part] for part in range(parts) for rank in cut], dim)


def _saved_parts(beside: dict[str, Tensor], adapted: Sequence[str]) -> list[str]:
    """PEFT's `modules_to_save`."""
    saved = set()
    for name in beside:
        part = next((part for ours, part in _PARTS.items() if name.startswith(ours)), None)
        if part is None:
            raise ConfigError(
                f"{name!r} is trained beside the adapters, and PEFT's format has no place for the "
                "language model's own weights; export the model with the adapters merged"
            )
        if any(module.startswith(f"model.{part}.") for module in adapted):
            raise ConfigError(
                f"{part}: has adapters and is trained, too, which PEFT's format cannot hold; "
                "export the model with the adapters merged"
            )
        saved.add(part)
    return sorted(saved)


def _settings(
    ranks: dict[str, int],
    scales: dict[str, float],
    saved: list[str],
    base_model: str | None,
    dropout: float,
) -> dict[str, Any]:
    most = max(ranks.values(), key=list(ranks.values()).count)
    usual = most * scales[next(name for name in ranks if ranks[name] == most)]
    alphas = {name: ranks[name] * scales[name] for name in ranks}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": most,
        "lora_alpha": usual,
        "lora_dropout": dropout,
        "target_modules": sorted(ranks),
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != most},
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != usual},
        "modules_to_save": saved or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
    }


def _write(folder: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps(settings, indent=2) + "\n")
