"""Which weights of Hugging Face's make up which of ours, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import NevaConfig
from .language_config import LanguageConfig
from .vision_config import HFCLIPVisionConfig

Tensors = Sequence[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """One weight of ours, and theirs that hold the same numbers."""

    ours: str
    """Its name, layers counted over all pipeline stages."""
    theirs: tuple[str, ...]
    """Canonical names (hf_files.py)."""
    join: Callable[[Tensors], Tensor]
    """Theirs to ours."""
    split: Callable[[Tensor], Tensors]
    """Ours to theirs."""
    parts: int = 1
    """Equal parts of ours, of which each tensor rank has a piece: the gate and what it gates."""


def model_ties(config: NevaConfig) -> list[Tie]:
    """All weights of a model."""
    return [
        *vision_ties(config),
        *projector_ties(config),
        *language_ties(config.language_transformer_config),
    ]


def language_ties(config: LanguageConfig) -> list[Tie]:
    """Weights of the decoder; their names are the same in all families."""
    ours, theirs = "language_model.", "language_model."
    tied = config.share_embeddings_and_output_weights
    output = theirs + "embed_tokens.weight" if tied else "lm_head.weight"
    biased = config.normalization == "LayerNorm"
    ties = [
        same(ours + "embedding.word_embeddings.weight", theirs + "embed_tokens.weight"),
        same(ours + "output_layer.weight", output),
        *norm(ours + "decoder.final_layernorm", theirs + "norm", biased),
    ]
    for number in range(config.num_layers):
        layer, there = f"{ours}decoder.layers.{number}.", f"{theirs}layers.{number}."
        ties += [
            *norm(layer + "input_layernorm", there + "input_layernorm", biased),
            *norm(layer + "pre_mlp_layernorm", there + "post_attention_layernorm", biased),
            *_attention(config, layer + "self_attention.", there + "self_attn."),
            *_mlp(config, layer + "mlp.", there + "mlp."),
        ]
    return ties


def projector_ties(config: NevaConfig) -> list[Tie]:
    """Weights of a projector of two layers; others have none in Hugging Face's LLaVA."""
    if config.vision_projection_config.projector_type not in ("mlp2x_gelu", "mlp"):
        return []
    kinds = ("weight", "bias") if config.vision_projection_config.add_bias_linear else ("weight",)
    return [
        same(
            f"vision_projection.encoder.linear_fc{number}.{kind}",
            f"multi_modal_projector.linear_{number}.{kind}",
        )
        for number in (1, 2)
        for kind in kinds
    ]


def vision_ties(config: NevaConfig) -> list[Tie]:
    """Weights of the vision encoder's layers that are built."""
    from .hf_map_vision import encoder_ties, tower_ties

    shape = config.vision_shape
    assert shape is not None
    if isinstance(config.vision_transformer_config, HFCLIPVisionConfig):
        return tower_ties(shape, config.num_vision_layers)
    return encoder_ties(shape, config.num_vision_layers, "vision_model.")


def same(ours: str, theirs: str) -> Tie:
    """A weight that is alike in both."""
    return Tie(ours=ours, theirs=(theirs,), join=lambda them: them[0], split=lambda us: [us])


def reshaped(ours: str, theirs: str, shape: Sequence[int], their_shape: Sequence[int]) -> Tie:
    """A weight whose dimensions differ."""
    return Tie(
        ours=ours,
        theirs=(theirs,),
        join=lambda them: them[0].reshape(*shape),
        split=lambda us: [us.reshape(*their_shape)],
    )


def norm(ours: str, theirs: str, biased: bool) -> list[Tie]:
    """A norm's weight, and its bias if it has one."""
    kinds = ("weight", "bias") if biased else ("weight",)
    return [same(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in kinds]


def interleave(
    queries: int, groups: int, head: int
) -> tuple[Callable[[Tensors], Tensor], Callable[[Tensor], Tensors]]:
    """Queries, keys and values as megatron-core has them: group by group.

    A group's queries are followed by its key and its value, so that a tensor rank, which takes
    whole groups, has what belongs together.

    Args:
        queries: heads of queries.
        groups: heads of keys, and of values.
        head: channels of a head.
    """
    widths = [queries // groups * head, head, head]

    def join(them: Tensors) -> Tensor:
        parts = [x.reshape(groups, -1, *x.shape[1:]) for x in them]
        return torch.cat(parts, dim=1).flatten(0, 1)

    def split(us: Tensor) -> Tensors:
        grouped = us.reshape(groups, sum(widths), *us.shape[1:])
        return [x.flatten(0, 1) for x in torch.split(grouped, widths, dim=1)]

    return join, split


def _attention(config: LanguageConfig, ours: str, theirs: str) -> list[Tie]:
    join, split = interleave(config.num_attention_heads, config.num_query_groups, config.head_size)
    kinds = ("weight", "bias") if config.add_qkv_bias else ("weight",)
    ties = [
        Tie(
            ours=f"{ours}linear_qkv.{kind}",
            theirs=tuple(f"{theirs}{name}_proj.{kind}" for name in "qkv"),
            join=join,
            split=split,
        )
        for kind in kinds
    ]
    return [*ties, same(ours + "linear_proj.weight", theirs + "o_proj.weight")]


def _mlp(config: LanguageConfig, ours: str, theirs: str) -> list[Tie]:
    down = same(ours + "linear_fc2.weight", theirs + "down_proj.weight")
    if not config.gated_linear_unit:
        return [same(ours + "linear_fc1.weight", theirs + "up_proj.weight"), down]
    gate_and_up = Tie(
        ours=ours + "linear_fc1.weight",
        theirs=(theirs + "gate_proj.weight", theirs + "up_proj.weight"),
        join=lambda them: torch.cat(list(them)),
        split=lambda us: us.chunk(2),
        parts=2,
    )
    return [gate_and_up, down]
