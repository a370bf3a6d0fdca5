"""Vision encoders by their shapes, and how many embeddings a tile becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError

VisionFamily = Literal["clip", "siglip", "internvit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """A vision transformer on megatron-core's layers. The defaults are CLIP ViT-L/14's at 336."""

    family: VisionFamily = "clip"
    img_h: int = 336
    img_w: int = 336
    patch_dim: int = 14
    """Height and width of a patch, in pixels."""
    num_layers: int = 24
    hidden_size: int = 1024
    ffn_hidden_size: int = 4096
    num_attention_heads: int = 16
    activation: Literal["gelu", "quick_gelu", "gelu_tanh"] = "quick_gelu"
    layernorm_epsilon: float = 1e-5
    add_class_token: bool = True
    init_method_std: float = 0.02

    def __post_init__(self) -> None:
        """Refuse shapes that no encoder has."""
        for name in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"vision encoder: {name}={getattr(self, name)}: must be 1 or more"
                )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"vision encoder: hidden_size={self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads"
            )
        if min(self.img_h, self.img_w) < self.patch_dim:
            raise ConfigError(
                f"vision encoder: an image of {self.img_h}x{self.img_w} holds no patch of "
                f"{self.patch_dim}"
            )
        if self.family == "siglip" and self.add_class_token:
            raise ConfigError(
                "vision encoder: SigLIP has no class token; set add_class_token=False"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches from top to bottom and from left to right; what fills no patch is left out."""
        return self.img_h // self.patch_dim, self.img_w // self.patch_dim

    @property
    def num_patches(self) -> int:
        """Patches of a tile."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CLIPViTL_14_336_Config(VisionConfig):
    """CLIP ViT-L/14 at 336 pixels, LLaVA-1.5's encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigLIPViT400M_14_384_Config(VisionConfig):
    """SigLIP so400m/14 at 384 pixels: 27 x 27 patches, 6 pixels of each side fill none."""

    family: VisionFamily = "siglip"
    img_h: int = 384
    img_w: int = 384
    num_layers: int = 27
    hidden_size: int = 1152
    ffn_hidden_size: int = 4304
    activation: Literal["gelu", "quick_gelu", "gelu_tanh"] = "gelu_tanh"
    layernorm_epsilon: float = 1e-6
    add_class_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InternViT_300M_448px_Config(VisionConfig):
    """InternViT 300M at 448 pixels: each branch is scaled per channel before it is added."""

    family: VisionFamily = "internvit"
    img_h: int = 448
    img_w: int = 448
    activation: Literal["gelu", "quick_gelu", "gelu_tanh"] = "gelu"
    layernorm_epsilon: float = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class HFCLIPVisionConfig:
    """A CLIP or SigLIP vision tower that runs as Hugging Face's module, alike on all ranks."""

    pretrained_model_name_or_path: str = "openai/clip-vit-large-patch14-336"
    """Local folder, or a name on the hub."""
    shape: VisionConfig | None = None
    """Its shapes; None to read them from its config.json, which may download it."""

    def __post_init__(self) -> None:
        """Refuse InternViT, whose module needs code of its own."""
        if self.shape is not None and self.shape.family == "internvit":
            raise ConfigError(
                "HFCLIPVisionConfig: runs CLIP and SigLIP; use InternViT_300M_448px_Config"
            )
