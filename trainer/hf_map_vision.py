"""Which weights of Hugging Face's vision towers make up ours."""

from __future__ import annotations

import torch

from .hf_map import Tie, interleave, norm, reshaped, same
from .vision_config import VisionConfig

_THEIRS = "vision_tower."


def encoder_ties(shape: VisionConfig, num_layers: int, ours: str) -> list[Tie]:
    """Weights of an encoder on megatron-core's layers.

    Args:
        shape: its shapes.
        num_layers: layers that are built.
        ours: what our names begin with.
    """
    ties = (
        _intern_embeddings(shape, ours)
        if shape.family == "internvit"
        else _clip_embeddings(shape, ours)
    )
    for number in range(num_layers):
        ties += _layer(shape, f"{ours}decoder.layers.{number}.", number)
    return ties


def old_internvit_ties(shape: VisionConfig, num_layers: int, ours: str) -> list[Tie]:
    """Weights of InternViT under the names of its authors' own code."""
    wide = shape.hidden_size
    embeddings = _THEIRS + "embeddings."
    ties = [
        same(ours + "class_token", embeddings + "class_embedding"),
        same(ours + "conv1.weight", embeddings + "patch_embedding.weight"),
        same(ours + "conv1.bias", embeddings + "patch_embedding.bias"),
        _positions(shape, ours, embeddings + "position_embedding"),
    ]
    join, split = interleave(
        shape.num_attention_heads, shape.num_attention_heads, wide // shape.num_attention_heads
    )
    for number in range(num_layers):
        layer, there = f"{ours}decoder.layers.{number}.", f"{_THEIRS}encoder.layers.{number}."
        ties += [
            Tie(
                ours=f"{layer}self_attention.linear_qkv.{kind}",
                theirs=(f"{there}attn.qkv.{kind}",),
                join=lambda them: join(them[0].chunk(3)),
                split=lambda us: [torch.cat(list(split(us)))],
            )
            for kind in ("weight", "bias")
        ]
        ties += _pairs(
            layer,
            there,
            {
                "input_layernorm": "norm1",
                "pre_mlp_layernorm": "norm2",
                "self_attention.linear_proj": "attn.proj",
                "mlp.linear_fc1": "mlp.fc1",
                "mlp.linear_fc2": "mlp.fc2",
            },
        )
        ties += [
            same(layer + "self_attn_bda.scale", there + "ls1"),
            same(layer + "mlp_bda.scale", there + "ls2"),
        ]
    return ties


def tower_ties(shape: VisionConfig, num_layers: int) -> list[Tie]:
    """Weights of Hugging Face's own module, which are theirs under its name."""
    return [
        same("vision_model.tower." + name.removeprefix(_THEIRS), name)
        for tie in encoder_ties(shape, num_layers, "")
        for name in tie.theirs
    ]


def _clip_embeddings(shape: VisionConfig, ours: str) -> list[Tie]:
    there = _THEIRS + "embeddings."
    ties = [
        same(ours + "conv1.weight", there + "patch_embedding.weight"),
        same(ours + "position_embeddings.weight", there + "position_embedding.weight"),
    ]
    if shape.family == "siglip":
        return [*ties, same(ours + "conv1.bias", there + "patch_embedding.bias")]
    wide = shape.hidden_size
    token = reshaped(ours + "class_token", there + "class_embedding", (1, 1, wide), (wide,))
    return [*ties, token, *norm(ours + "ln_pre", _THEIRS + "pre_layrnorm", True)]


def _intern_embeddings(shape: VisionConfig, ours: str) -> list[Tie]:
    there = _THEIRS + "embeddings."
    return [
        same(ours + "class_token", there + "cls_token"),
        same(ours + "conv1.weight", there + "patch_embeddings.projection.weight"),
        same(ours + "conv1.bias", there + "patch_embeddings.projection.bias"),
        _positions(shape, ours, there + "position_embeddings"),
    ]


def _positions(shape: VisionConfig, ours: str, theirs: str) -> Tie:
    size = (shape.num_patches + 1, shape.hidden_size)
    return reshaped(ours + "position_embeddings.weight", theirs, size, (1, *size))


def _layer(shape: VisionConfig, ours: str, number: int) -> list[Tie]:
    intern = shape.family == "internvit"
    there = f"{_THEIRS}encoder.{'layer' if intern else 'layers'}.{number}."
    attention = there + ("attention." if intern else "self_attn.")
    heads = shape.num_attention_heads
    join, split = interleave(heads, heads, shape.hidden_size // heads)
    ties = [
        Tie(
            ours=f"{ours}self_attention.linear_qkv.{kind}",
            theirs=tuple(f"{attention}{name}_proj.{kind}" for name in "qkv"),
            join=join,
            split=split,
        )
        for kind in ("weight", "bias")
    ]
    ties += _pairs(
        ours,
        there,
        {
            "input_layernorm": "layernorm_before" if intern else "layer_norm1",
            "pre_mlp_layernorm": "layernorm_after" if intern else "layer_norm2",
            "self_attention.linear_proj": "attention.projection_layer"
            if intern
            else "self_attn.out_proj",
            "mlp.linear_fc1": "mlp.fc1",
            "mlp.linear_fc2": "mlp.fc2",
        },
    )
    if intern:
        ties += [
            same(ours + "self_attn_bda.scale", there + "lambda_1"),
            same(ours + "mlp_bda.scale", there + "lambda_2"),
        ]
    return ties


def _pairs(ours: str, theirs: str, names: dict[str, str]) -> list[Tie]:
    """Weights and biases that are alike in both."""
    return [
        same(f"{ours}{name}.{kind}", f"{theirs}{their_name}.{kind}")
        for name, their_name in names.items()
        for kind in ("weight", "bias")
    ]
