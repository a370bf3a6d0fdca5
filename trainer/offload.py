"""A frozen part's weights in the computer's memory, on the GPU only while the part runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError


def offload(part: nn.Module, device: torch.device) -> None:
    """Move a part's weights to pinned memory, and bring copies to the device for each pass.

    Nothing waits for a copy but the pass itself, on the same stream; what was copied is freed
    behind it. Weights are not copied back, so none of them may change on the device.

    Args:
        part: called with `torch.no_grad`, as no weight of it is trained.
        device: where it runs.

    Raises:
        ConfigError: a weight is trained.
    """
    trained = [name for name, weight in part.named_parameters() if weight.requires_grad]
    if trained:
        raise ConfigError(
            f"trainer.compute.offload_vision: {trained[0]} of the vision encoder is trained, and "
            "only frozen weights can stay in the computer's memory; set freeze_vision_model=True "
            "(with LoRA peft.freeze_vision_model, and target_modules without the vision encoder's)"
        )
    resting = [(weight, _pinned(weight.data, device)) for weight in part.parameters()]

    def bring(*_: Any) -> None:
        for weight, data in resting:
            weight.data = data.to(device, non_blocking=True, copy=True)

    def free(*_: Any) -> None:
        for weight, data in resting:
            weight.data = data

    free()
    part.register_forward_pre_hook(bring)
    part.register_forward_hook(free, always_call=True)


def _pinned(data: Tensor, device: torch.device) -> Tensor:
    """In the computer's memory, at a place that a GPU copies from by itself."""
    return data.cpu().pin_memory() if device.type == "cuda" else data
