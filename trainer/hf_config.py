"""Hugging Face's config.json as our configs, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .config import MultimodalProjectorConfig, NevaConfig
from .hf_language import language_from_hf, language_to_hf
from .hf_vision import vision_from_hf, vision_to_hf
from .hub import hf_folder
from .vision_config import HFCLIPVisionConfig, VisionConfig


def neva_from_hf(settings: dict[str, Any], source: str) -> NevaConfig:
    """The model that a LLaVA folder's config.json describes.

    Args:
        settings: of LlavaConfig, all of them.
        source: named in errors.

    Raises:
        ConfigError: it has something that our model lacks.
    """
    if settings["model_type"] != "llava":
        raise ConfigError(
            f"{source}: model_type {settings['model_type']!r} is no LLaVA model; "
            "import folders of LlavaForConditionalGeneration"
        )
    layer = settings["vision_feature_layer"]
    if not isinstance(layer, int):
        raise ConfigError(
            f"{source}: vision_feature_layer={layer}: features of several layers side by side are "
            "not supported; use one layer"
        )
    if settings["projector_hidden_act"] != "gelu":
        raise ConfigError(
            f"{source}: projector_hidden_act={settings['projector_hidden_act']!r}: the projector "
            "has gelu"
        )
    vision = vision_from_hf(settings["vision_config"], source)
    drops = settings["vision_feature_select_strategy"] == "default"
    if drops and not vision.add_class_token:
        raise ConfigError(
            f"{source}: a {vision.family} tower with vision_feature_select_strategy='default': "
            "Hugging Face drops the first feature as a class token, and there it is the first "
            "patch, which the model here keeps; import a model with 'full'"
        )
    language = language_from_hf(settings["text_config"], source)
    # A text model's own setting is that of the whole, too.
    tied = bool(settings.get("tie_word_embeddings")) or language.share_embeddings_and_output_weights
    return NevaConfig(
        language_transformer_config=replace(language, share_embeddings_and_output_weights=tied),
        vision_transformer_config=vision,
        vision_projection_config=MultimodalProjectorConfig(
            add_bias_linear=settings["multimodal_projector_bias"]
        ),
        drop_vision_class_token=drops,
        vision_feature_layer=layer,
        image_token_index=settings["image_token_index"],
    )


def neva_to_hf(config: NevaConfig) -> dict[str, Any]:
    """Settings of the LlavaConfig that describes a model.

    Raises:
        ConfigError: LlavaForConditionalGeneration cannot express it.
    """
    projector, shape = config.vision_projection_config, config.vision_shape
    language = config.language_transformer_config
    assert shape is not None
    wide = projector.ffn_hidden_size not in (None, language.hidden_size)
    if projector.projector_type not in ("mlp2x_gelu", "mlp") or projector.pixel_shuffle > 1 or wide:
        raise ConfigError(
            f"export: a projector of type {projector.projector_type!r}, pixel_shuffle="
            f"{projector.pixel_shuffle}, ffn_hidden_size={projector.ffn_hidden_size}: "
            "LlavaForConditionalGeneration has two layers as wide as the language model, without "
            "pixel shuffle; train such a projector to export it"
        )
    if config.image_token_index >= language.vocab_size:
        raise ConfigError(
            f"export: image_token_index={config.image_token_index} is outside the vocabulary of "
            f"{language.vocab_size}; set it to the id of the tokenizer's image token"
        )
    drops = shape.add_class_token and config.drop_vision_class_token
    return {
        "model_type": "llava",
        "text_config": language_to_hf(language),
        "vision_config": vision_to_hf(shape),
        "image_token_index": config.image_token_index,
        "image_seq_length": config.num_image_embeddings_per_tile,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": projector.add_bias_linear,
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": "default" if drops else "full",
        "tie_word_embeddings": language.share_embeddings_and_output_weights,
    }


def read_config(folder: Path) -> dict[str, Any]:
    """All settings of a folder's config.json, those it leaves to their defaults included.

    Raises:
        ConfigError: there is none, or it is none that transformers knows.
    """
    path = folder / "config.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: {error}; a Hugging Face model is a folder with config.json and safetensors"
        ) from error
    kind = settings.get("model_type")
    if kind == "intern_vit_6b":  # Its config class is code of its folder, which is never run.
        return settings
    from transformers import AutoConfig

    try:
        # Never the folder's code, which AutoConfig would run if it were trusted.
        full: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except (ValueError, OSError, TypeError) as error:
        raise ConfigError(f"{path}: model_type {kind!r} cannot be read: {error}") from error
    return full


def resolve(config: NevaConfig) -> NevaConfig:
    """The config with the vision tower's shapes read from its folder, which may be downloaded.

    Raises:
        ConfigError: the folder or its config.json cannot be read.
    """
    vision = config.vision_transformer_config
    if not isinstance(vision, HFCLIPVisionConfig) or vision.shape is not None:
        return config
    shape = read_vision(hf_folder(tower_source(vision), weights=False))
    return replace(config, vision_transformer_config=replace(vision, shape=shape))


def tower_source(tower: HFCLIPVisionConfig) -> str:
    """Where a vision tower's shapes and weights come from: a folder, or `hf://` and its name."""
    name = tower.pretrained_model_name_or_path
    is_path = name.startswith(("hf://", "/", ".", "~")) or Path(name).is_dir()
    return name if is_path else f"hf://{name}"


def read_vision(folder: Path) -> VisionConfig:
    """Shapes of a vision tower: of a folder of its own, or of a model that has one.

    Raises:
        ConfigError: it has none, or one that is not supported.
    """
    settings = read_config(folder)
    return vision_from_hf(settings.get("vision_config") or settings, str(folder))
