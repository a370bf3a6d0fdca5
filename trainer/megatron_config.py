"""Our configs as megatron-core's TransformerConfig, which holds shapes and layout in one."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F

from .compat import prepare_megatron
from .config import NevaConfig
from .language_config import LanguageConfig
from .parallel_config import ComputeConfig, ParallelConfig
from .vision_config import VisionConfig

prepare_megatron()

from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

_UNFUSED = {
    "masked_softmax_fusion": False,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "apply_rope_fusion": False,
    "persist_layer_norm": False,
    "gradient_accumulation_fusion": False,
    "use_cpu_initialization": True,
}
"""Kernels of Apex and Transformer Engine, which are not needed. Initializing on the CPU makes the
weights of a layout those of any other."""


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """Gelu as CLIP has it, through a sigmoid."""
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """What Nemotron has between its layers."""
    return F.relu(x).square()


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Gelu as SigLIP has it, through a hyperbolic tangent."""
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "squared_relu": squared_relu,
}


def language_transformer(
    config: LanguageConfig, parallel: ParallelConfig, compute: ComputeConfig
) -> TransformerConfig:
    """The decoder's."""
    recompute: dict[str, Any] = {}
    if compute.recompute == "full":
        recompute = {"recompute_method": "uniform", "recompute_num_layers": 1}
    pipeline: dict[str, Any] = {}
    if parallel.virtual_pipeline_model_parallel_size:
        # With batched sends a virtual pipeline gives wrong gradients, silently.
        pipeline = {"overlap_p2p_comm": True, "batch_p2p_comm": False}
    return _transformer(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_query_groups,
        kv_channels=config.head_size,
        normalization=config.normalization,
        layernorm_epsilon=config.layernorm_epsilon,
        layernorm_zero_centered_gamma=config.layernorm_zero_centered_gamma,
        activation_func=_ACTIVATIONS[config.activation],
        gated_linear_unit=config.gated_linear_unit,
        add_bias_linear=False,
        add_qkv_bias=config.add_qkv_bias,
        window_size=None if config.window_size is None else (config.window_size - 1, 0),
        init_method_std=config.init_method_std,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        recompute_granularity=compute.recompute,
        calculate_per_token_loss=True,
        **_UNFUSED,
        **_DROPOUT,
        **_numbers(compute),
        **recompute,
        **pipeline,
    )


def vision_transformer(
    config: VisionConfig, num_layers: int, parallel: ParallelConfig, compute: ComputeConfig
) -> TransformerConfig:
    """The vision encoder's: whole on the first stage, its tokens on all ranks of a tensor group."""
    return _transformer(
        num_layers=num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        normalization="LayerNorm",
        layernorm_epsilon=config.layernorm_epsilon,
        activation_func=_ACTIVATIONS[config.activation],
        add_bias_linear=True,
        init_method_std=config.init_method_std,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        **_UNFUSED,
        **_DROPOUT,
        **_numbers(compute),
    )


def projector_transformer(
    config: NevaConfig, parallel: ParallelConfig, compute: ComputeConfig
) -> TransformerConfig:
    """The projector's two layers, which megatron-core sees as a transformer's MLP."""
    language = config.language_transformer_config
    projector = config.vision_projection_config
    return _transformer(
        num_layers=1,
        # Without attention; megatron-core wants to divide heads over the tensor group.
        num_attention_heads=parallel.tensor_model_parallel_size,
        hidden_size=language.hidden_size,
        ffn_hidden_size=projector.ffn_hidden_size or language.hidden_size,
        activation_func=F.gelu,
        add_bias_linear=projector.add_bias_linear,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        **_UNFUSED,
        **_DROPOUT,
        **_numbers(compute),
    )


def _transformer(**settings: Any) -> TransformerConfig:
    with warnings.catch_warnings():
        # megatron-core warns of its own default.
        warnings.filterwarnings("ignore", message="full scope is deprecated")
        return TransformerConfig(**settings)


_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}


def _numbers(compute: ComputeConfig) -> dict[str, Any]:
    dtype = compute.dtype
    return {
        "bf16": dtype is torch.bfloat16,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "autocast_dtype": dtype,
        "perform_initialization": compute.initialize,
    }
