"""The decoder's layers, run on megatron-core's modules without calling them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parallel_config import ComputeConfig, ParallelConfig
from .adapted import Caller, Product, read_swiglu, read_turn
from .again import computed_again
from .elementwise import add_norm, compiled, rms_norm
from .loss import token_losses
from .product import Frozen, product

Weights = Callable[[Any], Frozen | None]
"""A layer's frozen weight in another form, if there is one."""


def as_stored(layer: Any) -> None:
    """No other form of any weight."""


def fits(config: Any, parallel: ParallelConfig) -> bool:
    """Whether the fused decoder can run a model.

    Args:
        config: megatron-core's TransformerConfig of the decoder.
        parallel: the layout; tensors must be whole on a rank.
    """
    sizes = (
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.context_parallel_size,
    )
    is_llama = (
        config.normalization == "RMSNorm"
        and config.gated_linear_unit
        and config.activation_func is F.silu
        and not config.layernorm_zero_centered_gamma
    )
    return is_llama and set(sizes) == {1}


def run_decoder(
    model: Any,
    embeddings: Tensor,
    labels: Tensor,
    labelled: Tensor,
    packed: Any,
    compute: ComputeConfig,
    weights: Weights,
) -> Tensor:
    """The loss of each position, 0 where there is no label.

    Args:
        model: megatron-core's GPTModel.
        embeddings: [seq, batch, width]
        labels: int64[batch, seq]; below 0 where no loss is taken.
        labelled: int64[positions with a label], among batch · seq.
        packed: megatron-core's PackedSeqParams; None of padded rows.
        compute: what is computed twice.
        weights: other forms of frozen weights, such as fp8.RoundedWeights.

    Returns:
        float32[batch, seq]
    """
    seq, batch, width = embeddings.shape
    flat = labels.reshape(-1)
    x = embeddings.transpose(0, 1).reshape(seq * batch, width)
    rows = _Rows.of(model, packed, seq, batch, x)
    call = compiled if x.is_cuda else _as_it_is
    block, eps = model.decoder, model.config.layernorm_epsilon
    following = [*(layer.input_layernorm for layer in block.layers[1:]), block.final_layernorm]
    normed = call(rms_norm)(x, block.layers[0].input_layernorm.weight, eps)
    for layer, norm in zip(block.layers, following, strict=True):
        step = partial(_layer, layer, norm.weight, rows, call, weights)
        if compute.recompute == "full" and torch.is_grad_enabled():
            x, normed = computed_again(step, x, normed)
        else:
            x, normed = step(x, normed)
    output = model.output_layer.weight
    if model.share_embeddings_and_output_weights:
        output = model.shared_embedding_or_output_weight()
    losses = x.new_zeros(batch * seq, dtype=torch.float32)
    found = token_losses(normed[labelled], output, flat[labelled])
    return losses.index_put((labelled,), found).view(batch, seq)


def _layer(
    layer: Any,
    next_norm: Tensor,
    rows: _Rows,
    call: Caller,
    weights: Weights,
    x: Tensor,
    normed: Tensor,
) -> tuple[Tensor, Tensor]:
    """One layer: the residual stream, and the same normalized for what follows."""
    attention, mlp, eps = layer.self_attention, layer.mlp, layer.config.layernorm_epsilon

    def apply(linear: Any, value: Tensor) -> Product:
        return product(linear, value, weights(linear))

    qkv = apply(attention.linear_qkv, normed)
    groups, size = layer.config.num_query_groups, layer.config.kv_channels
    query, key, value = read_turn(qkv, rows.cos, rows.sin, groups, size, call)
    attended = rows.attend(attention.core_attention, query, key, value)
    branch = apply(attention.linear_proj, attended).whole()
    x, normed = call(add_norm)(branch, x, layer.pre_mlp_layernorm.weight, eps)
    gated = read_swiglu(apply(mlp.linear_fc1, normed), call)
    x, normed = call(add_norm)(apply(mlp.linear_fc2, gated).whole(), x, next_norm, eps)
    return x, normed


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class _Rows:
    """Where the samples of a batch lie, and how far each position is turned."""

    def __init__(self, cos: Tensor, sin: Tensor, shape: tuple[int, int], packed: Any) -> None:
        self.cos, self.sin, self.shape, self.packed = cos, sin, shape, packed

    @classmethod
    def of(cls, model: Any, packed: Any, seq: int, batch: int, like: Tensor) -> _Rows:
        """Of a batch of rows, or of a packed row."""
        places = torch.arange(seq, device=like.device).repeat(batch)
        if packed is not None:
            starts = packed.cu_seqlens_q_padded
            # Padding behind the last sample, if any, counts on from there.
            sample = torch.bucketize(places, starts[1:-1], right=True)
            places = places - starts[sample]
        rotary = model.rotary_pos_emb
        # Kept there, as megatron-core keeps them: each copy would wait for the device.
        rotary.inv_freq = rotary.inv_freq.to(like.device)
        angles = (places.float()[:, None] * rotary.inv_freq)[:, None]
        return cls(angles.cos().to(like.dtype), angles.sin().to(like.dtype), (batch, seq), packed)

    def attend(self, attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[tokens, heads · size], each sample by itself."""
        if self.packed is not None:
            attended: Tensor = attention(query, key, value, None, packed_seq_params=self.packed)
            return attended.reshape(len(query), -1)
        batch, seq = self.shape
        rows = (t.view(batch, seq, *t.shape[1:]).transpose(0, 1) for t in (query, key, value))
        attended = attention(*rows, None)
        return attended.view(seq, batch, -1).transpose(0, 1).reshape(seq * batch, -1)
