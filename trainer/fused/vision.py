"""A frozen vision encoder in nine launches a layer, on megatron-core's weights."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..spec import Norm, ScaledAdd
from .elementwise import add_layer_norm, compiled


def run_layers(block: Any, x: Tensor) -> Tensor:
    """What a vision encoder's layers give.

    Args:
        block: megatron-core's TransformerBlock of `spec.vision_block`, whole on this rank.
        x: [tiles, positions, width]

    Returns:
        [tiles, positions, width]
    """
    layers = list(block.layers)
    activate = layers[0].config.activation_func
    if x.is_cuda:
        activate = compiled(activate)
    normed = layers[0].input_layernorm(x)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        branch = _attention(layer.self_attention, normed, layer.config.num_attention_heads)
        x, normed = _add(x, branch, layer.self_attn_bda, layer.pre_mlp_layernorm)
        hidden = activate(_linear(layer.mlp.linear_fc1, normed))
        branch = _linear(layer.mlp.linear_fc2, hidden)
        # Behind the last layer nothing is normalized; any norm will do, its result is dropped.
        after = layer.input_layernorm if following is None else following.input_layernorm
        x, normed = _add(x, branch, layer.mlp_bda, after)
    return x


def _attention(attention: Any, normed: Tensor, heads: int) -> Tensor:
    """Every patch sees all of its tile."""
    qkv = _linear(attention.linear_qkv, normed)
    by_head = qkv.view(*qkv.shape[:2], heads, 3, -1).transpose(1, 2)
    query, key, value = by_head.unbind(3)
    attended = F.scaled_dot_product_attention(query, key, value)
    return _linear(attention.linear_proj, attended.transpose(1, 2).flatten(2))


def _linear(layer: Any, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _add(x: Tensor, branch: Tensor, how: Any, norm: Norm) -> tuple[Tensor, Tensor]:
    scale = how.scale if isinstance(how, ScaledAdd) else None
    step = compiled(add_layer_norm) if x.is_cuda else add_layer_norm
    assert norm.bias is not None
    made: tuple[Tensor, Tensor] = step(x, branch, scale, norm.weight, norm.bias, norm.eps)
    return made
