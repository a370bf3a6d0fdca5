"""Adapters folded into the weights of their layers, and out again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .hf_load import global_name
from .lora_layer import LoRAColumnLinear, LoRARowLinear

AdaptedLayer = LoRAColumnLinear | LoRARowLinear


def adapted_layers(chunks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Layers with adapters, under names whose layers are counted over all stages."""
    for chunk in chunks:
        for name, module in chunk.named_modules():
            if isinstance(module, AdaptedLayer):
                yield global_name(chunk, f"{name}.weight").removesuffix(".weight"), module


@torch.no_grad()
def merge(chunks: Sequence[Any]) -> None:
    """Add each adapter to its layer's weight; each rank its own piece, none is sent.

    The weights as they were are kept beside them, so that `unmerge` gives back their bits.
    """
    for _, layer in adapted_layers(chunks):
        if layer.lora_unmerged is None:
            layer.lora_unmerged = layer.weight.detach().clone()
            # Rounded once, at the end, where weights are bfloat16.
            change = layer.lora_scale * (layer.lora_b.float() @ layer.lora_a.float())
            # Where products take another form of a weight, it rests off the GPU (fp8.py).
            layer.weight.copy_(layer.weight.float() + change.to(layer.weight.device))


@torch.no_grad()
def unmerge(chunks: Sequence[Any]) -> None:
    """Take the adapters out of the weights again."""
    for _, layer in adapted_layers(chunks):
        if layer.lora_unmerged is not None:
            layer.weight.copy_(layer.lora_unmerged)
            layer.lora_unmerged = None


@torch.no_grad()
def without_adapters(chunks: Sequence[Any]) -> None:
    """Merge, and make the layers plain ones: the model is as one that never had adapters."""
    merge(chunks)
    for _, layer in adapted_layers(chunks):
        del layer.lora_a, layer.lora_b
        for name in ("lora_parts", "lora_scale", "lora_dropout", "lora_unmerged"):
            delattr(layer, name)
        layer.__class__ = type(layer).__mro__[2]
