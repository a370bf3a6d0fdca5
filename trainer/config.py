"""NeVA as a whole: a vision encoder, a projector and a language model, under NeMo's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import ConfigError
from .language_config import LanguageConfig, Llama2Config7B, Llama2Config13B, Llama3Config8B
from .vision_config import CLIPViTL_14_336_Config, HFCLIPVisionConfig, VisionConfig

ProjectorType = Literal["mlp2x_gelu", "mlp", "linear", "identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MultimodalProjectorConfig:
    """From the encoder's features to the language model's embeddings."""

    projector_type: ProjectorType = "mlp2x_gelu"
    """Two layers with gelu between (NeMo calls them mlp2x_gelu or mlp), one layer, or none."""
    ffn_hidden_size: int | None = None
    """Size between the two layers; None for the language model's hidden size."""
    add_bias_linear: bool = True
    pixel_shuffle: int = 1
    """Side of the square of patches that becomes one embedding: 2 makes a quarter of them."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.projector_type not in ("mlp2x_gelu", "mlp", "linear", "identity"):
            raise ConfigError(
                f"projector_type={self.projector_type!r}: use mlp2x_gelu, linear or identity"
            )
        if self.pixel_shuffle < 1:
            raise ConfigError(f"pixel_shuffle={self.pixel_shuffle}: must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class NevaConfig:
    """A NeVA model, and which of its parts are trained."""

    language_transformer_config: LanguageConfig = field(default_factory=Llama2Config7B)
    vision_transformer_config: VisionConfig | HFCLIPVisionConfig = field(
        default_factory=CLIPViTL_14_336_Config
    )
    vision_projection_config: MultimodalProjectorConfig = field(
        default_factory=MultimodalProjectorConfig
    )
    drop_vision_class_token: bool = True
    vision_feature_layer: int = -2
    """Whose output the features are: -1 the last layer, -2 the one before it, as LLaVA does."""
    freeze_language_model: bool = False
    freeze_vision_model: bool = False
    freeze_vision_projection: bool = False
    language_model_from_pretrained: str | None = None
    """Hugging Face folder or `hf://` name whose language model training starts from."""
    vision_model_from_pretrained: str | None = None
    """The same for the vision encoder; a vision tower of its own, or a model that has one."""
    vision_projection_from_pretrained: str | None = None
    """The same for the projector; a model that has one."""
    image_token_index: int = 32000
    """The image token's id in the vocabulary of Hugging Face's model, for export."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        shape = self.vision_shape
        if shape is None:
            return
        if not 1 <= self.num_vision_layers <= shape.num_layers:
            raise ConfigError(
                f"vision_feature_layer={self.vision_feature_layer}: the vision encoder has "
                f"{shape.num_layers} layers; use -{shape.num_layers} to -1"
            )
        self._check_projector(shape)

    @property
    def vision_shape(self) -> VisionConfig | None:
        """Shapes of the vision encoder; None where its config.json is not read yet."""
        vision = self.vision_transformer_config
        return vision.shape if isinstance(vision, HFCLIPVisionConfig) else vision

    @property
    def num_vision_layers(self) -> int:
        """Layers of the encoder that the features pass; those behind them are not built."""
        layer = self.vision_feature_layer
        return layer if layer >= 0 else self._shape().num_layers + 1 + layer

    @property
    def keeps_class_token(self) -> bool:
        """Whether the class token's feature is an embedding of the image, too."""
        return self._shape().add_class_token and not self.drop_vision_class_token

    @property
    def num_image_embeddings_per_tile(self) -> int:
        """Positions of a tile in the language model; the loaders take the same number."""
        area = self.vision_projection_config.pixel_shuffle**2
        return self._shape().num_patches // area + self.keeps_class_token

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a tile, in pixels."""
        return self._shape().img_h, self._shape().img_w

    @property
    def projector_input_size(self) -> int:
        """Channels of what the projector is given."""
        return self._shape().hidden_size * self.vision_projection_config.pixel_shuffle**2

    def _shape(self) -> VisionConfig:
        if self.vision_shape is None:
            raise ConfigError(
                "HFCLIPVisionConfig: the vision tower's shapes are not read yet; "
                "use trainer.resolve(config)"
            )
        return self.vision_shape

    def _check_projector(self, shape: VisionConfig) -> None:
        projector = self.vision_projection_config
        if projector.pixel_shuffle > 1 and self.keeps_class_token:
            raise ConfigError(
                f"pixel_shuffle={projector.pixel_shuffle} with drop_vision_class_token=False: the "
                "class token is no patch and has no place in the square; drop it"
            )
        if any(side % projector.pixel_shuffle for side in shape.grid):
            raise ConfigError(
                f"pixel_shuffle={projector.pixel_shuffle}: {shape.grid[0]}x{shape.grid[1]} patches "
                "do not divide into such squares, so patches would be lost"
            )
        width = self.language_transformer_config.hidden_size
        if projector.projector_type == "identity" and self.projector_input_size != width:
            raise ConfigError(
                f"projector_type='identity': features have {self.projector_input_size} channels "
                f"and the language model {width}; use 'linear' or 'mlp2x_gelu'"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Llava15Config7B(NevaConfig):
    """LLaVA-1.5 7B: Vicuna 7B with CLIP ViT-L/14 at 336 pixels."""

    language_transformer_config: LanguageConfig = field(
        default_factory=lambda: Llama2Config7B(vocab_size=32064)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Llava15Config13B(NevaConfig):
    """LLaVA-1.5 13B: Vicuna 13B with CLIP ViT-L/14 at 336 pixels."""

    language_transformer_config: LanguageConfig = field(
        default_factory=lambda: Llama2Config13B(vocab_size=32064)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NevaLlama3Config8B(NevaConfig):
    """Llama 3 8B with CLIP ViT-L/14 at 336 pixels; 64 more words, the first for the image."""

    language_transformer_config: LanguageConfig = field(
        default_factory=lambda: Llama3Config8B(vocab_size=128320)
    )
    image_token_index: int = 128256
