"""What a layer is made of: megatron-core's parallel layers, our norm and our attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import SampleAttention
from .compat import prepare_megatron

prepare_megatron()

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add  # noqa: E402
from megatron.core.tensor_parallel.layers import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
)
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules  # noqa: E402
from megatron.core.transformer.enums import AttnMaskType  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.mlp import MLP, MLPSubmodules  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.transformer_block import (  # noqa: E402
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import (  # noqa: E402
    TransformerLayer,
    TransformerLayerSubmodules,
)


class Norm(MegatronModule):  # type: ignore[misc]
    """LayerNorm or RMSNorm, which marks its weights for sequence parallelism.

    megatron-core sums the gradients of marked weights over the tensor group, whose ranks see other
    tokens each; torch's norms are not marked.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        """As megatron-core builds its norms."""
        super().__init__(config=config)
        self.eps = eps
        self.zero_centered = config.layernorm_zero_centered_gamma
        start = torch.zeros if self.zero_centered else torch.ones
        self.weight = nn.Parameter(start(hidden_size, dtype=config.params_dtype))
        self.bias = None
        if config.normalization == "LayerNorm":
            self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))
        for weight in self.parameters():
            weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        weight = self.weight + 1 if self.zero_centered else self.weight
        if self.bias is None:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        return F.layer_norm(x, weight.shape, weight, self.bias, self.eps)


class ScaledAdd(MegatronModule):  # type: ignore[misc]
    """InternViT's residual: what a branch gives is scaled per channel, then added.

    Stands where megatron-core has a function that gives a function.
    """

    def __init__(self, config: Any) -> None:
        """With the scale that InternViT starts from."""
        super().__init__(config=config)
        self.scale = nn.Parameter(torch.full((config.hidden_size,), 0.1, dtype=config.params_dtype))

    def forward(self, training: bool, fused: bool) -> Any:
        """The function that adds."""
        return self._add

    def _add(
        self, output_and_bias: tuple[Tensor, Tensor | None], residual: Tensor, dropout: float
    ) -> Tensor:
        output, bias = output_and_bias
        return residual + self.scale * (output if bias is None else output + bias)


def mlp_submodules() -> MLPSubmodules:
    """Two parallel layers."""
    return MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)


def language_block(config: Any, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The decoder's layers on this pipeline stage."""
    count = get_num_layers_to_build(config, vp_stage=vp_stage)
    layer = _layer(AttnMaskType.causal, SampleAttention, get_bias_dropout_add)
    return TransformerBlockSubmodules(layer_specs=[layer] * count, layer_norm=Norm)


def vision_block(config: Any, *, scaled: bool) -> TransformerBlockSubmodules:
    """A vision encoder's layers: every patch sees all of its tile."""
    add: Any = get_bias_dropout_add
    if scaled:
        add = ModuleSpec(module=ScaledAdd, params={"config": config})
    layer = _layer(AttnMaskType.no_mask, SampleAttention, add)
    return TransformerBlockSubmodules(layer_specs=[layer] * config.num_layers)


def _layer(mask: Any, attention: type, add: Any) -> ModuleSpec:
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=Norm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": mask},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=attention,
                    linear_proj=RowParallelLinear,
                    q_layernorm=IdentityOp,
                    k_layernorm=IdentityOp,
                ),
            ),
            self_attn_bda=add,
            pre_mlp_layernorm=Norm,
            mlp=_mlp(),
            mlp_bda=add,
        ),
    )


def _mlp() -> Any:
    """As each megatron-core takes it: 0.19 wants a function that builds it."""
    if hasattr(MLP, "as_mlp_submodule"):
        return partial(MLP.as_mlp_submodule, submodules=mlp_submodules())
    return ModuleSpec(module=MLP, submodules=mlp_submodules())
