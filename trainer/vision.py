"""The vision encoder: pixels become one feature per patch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .compat import prepare_megatron
from .config import NevaConfig
from .fused.vision import run_layers
from .megatron_config import vision_transformer
from .parallel_config import ComputeConfig, ParallelConfig
from .spec import Norm, vision_block
from .vision_config import HFCLIPVisionConfig, VisionConfig

prepare_megatron()

from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlock  # noqa: E402


class VisionEncoder(MegatronModule):  # type: ignore[misc]
    """CLIP, SigLIP or InternViT on megatron-core's layers, up to the layer that gives features."""

    def __init__(
        self,
        shape: VisionConfig,
        num_layers: int,
        parallel: ParallelConfig,
        compute: ComputeConfig,
    ) -> None:
        """Build `num_layers` of the encoder's layers, with random weights."""
        config = vision_transformer(shape, num_layers, parallel, compute)
        super().__init__(config=config)
        self.fused = compute.fused if parallel.tensor_model_parallel_size == 1 else False
        dtype, width = config.params_dtype, shape.hidden_size
        # Parts have the names of megatron-core's CLIPViTModel.
        self.conv1 = nn.Conv2d(
            3,
            width,
            kernel_size=shape.patch_dim,
            stride=shape.patch_dim,
            bias=shape.family != "clip",
            dtype=dtype,
        )
        self.class_token = None
        if shape.add_class_token:
            self.class_token = nn.Parameter(torch.randn(1, 1, width).to(dtype))
        positions = shape.num_patches + shape.add_class_token
        self.position_embeddings = nn.Embedding(positions, width, dtype=dtype)
        self.ln_pre = None
        if shape.family == "clip":
            self.ln_pre = Norm(config, width, shape.layernorm_epsilon)
        self.decoder = TransformerBlock(
            config=config,
            spec=vision_block(config, scaled=shape.family == "internvit"),
            pre_process=True,
            post_process=False,
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of tiles.

        Args:
            pixels: [tiles, 3, height, width], normalized.

        Returns:
            [tiles, positions, hidden_size]; the class token's first where there is one.
        """
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.position_embeddings.weight
        if self.ln_pre is not None:
            x = self.ln_pre(x)
        if self._is_fused(x):
            return run_layers(self.decoder, x)
        x = self.decoder(x.transpose(0, 1).contiguous(), attention_mask=None)
        features: Tensor = x.transpose(0, 1)
        return features

    def _is_fused(self, x: Tensor) -> bool:
        """Whether the layers run by fused/vision.py, which knows no adapters and no gradients."""
        if any(weight.requires_grad for weight in self.parameters()):
            return False
        return x.is_cuda and x.dtype is torch.bfloat16 if self.fused is None else self.fused


class HFVisionEncoder(MegatronModule):  # type: ignore[misc]
    """Hugging Face's CLIP or SigLIP tower, whole on each rank of a tensor group."""

    def __init__(
        self,
        shape: VisionConfig,
        num_layers: int,
        parallel: ParallelConfig,
        compute: ComputeConfig,
    ) -> None:
        """Build the tower with random weights; its layers behind `num_layers` are left out."""
        config = vision_transformer(shape, num_layers, parallel, compute)
        super().__init__(config=config)
        from transformers import AutoConfig, AutoModel

        from .hf_vision import vision_to_hf

        settings = vision_to_hf(shape) | {"num_hidden_layers": num_layers}
        kind = settings.pop("model_type")
        tower = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
        self.tower = tower.to(config.params_dtype)
        # What comes behind the features would wait for gradients that never come.
        for unused in ("post_layernorm", "head"):
            if hasattr(self.tower, unused):
                setattr(self.tower, unused, nn.Identity())

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of tiles; see VisionEncoder."""
        outputs: Any = self.tower(pixels, output_hidden_states=True)
        features: Tensor = outputs.hidden_states[-1]
        return features


def build_vision_encoder(
    config: NevaConfig, parallel: ParallelConfig, compute: ComputeConfig
) -> VisionEncoder | HFVisionEncoder:
    """The encoder that a model's config asks for."""
    hugging_face = isinstance(config.vision_transformer_config, HFCLIPVisionConfig)
    build = HFVisionEncoder if hugging_face else VisionEncoder
    assert config.vision_shape is not None
    return build(config.vision_shape, config.num_vision_layers, parallel, compute)
