"""Settings of Hugging Face's vision towers as ours, and back."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from .vision_config import VisionConfig, VisionFamily

_FAMILIES: dict[str, VisionFamily] = {
    "clip_vision_model": "clip",
    "siglip_vision_model": "siglip",
    "internvl_vision": "internvit",
    "intern_vit_6b": "internvit",
}
_TO_HF = {
    "clip": "clip_vision_model",
    "siglip": "siglip_vision_model",
    "internvit": "internvl_vision",
}
_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_ACTIVATIONS_TO_HF = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}


def vision_from_hf(settings: dict[str, Any], source: str) -> VisionConfig:
    """An encoder from its `vision_config`.

    Raises:
        ConfigError: it has something that ours lacks.
    """
    kind = settings.get("model_type", "")
    if kind not in _FAMILIES:
        raise ConfigError(
            f"{source}: vision tower of type {kind!r}: {', '.join(_FAMILIES)} are supported"
        )
    family = _FAMILIES[kind]
    activation = settings["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise ConfigError(f"{source}: hidden_act={activation!r}: use {', '.join(_ACTIVATIONS)}")
    if family == "internvit":
        _check_internvit(settings, source)
    height, width = _pair(settings["image_size"])
    patch, patch_width = _pair(settings["patch_size"])
    if patch != patch_width:
        raise ConfigError(f"{source}: patches of {patch}x{patch_width}: must be square")
    return VisionConfig(
        family=family,
        img_h=height,
        img_w=width,
        patch_dim=patch,
        num_layers=settings["num_hidden_layers"],
        hidden_size=settings["hidden_size"],
        ffn_hidden_size=settings["intermediate_size"],
        num_attention_heads=settings["num_attention_heads"],
        activation=_ACTIVATIONS[activation],  # type: ignore[arg-type]
        layernorm_epsilon=settings["layer_norm_eps"],
        add_class_token=family != "siglip",
    )


def vision_to_hf(config: VisionConfig) -> dict[str, Any]:
    """Its `vision_config`."""
    settings: dict[str, Any] = {
        "model_type": _TO_HF[config.family],
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "hidden_act": _ACTIVATIONS_TO_HF[config.activation],
        "layer_norm_eps": config.layernorm_epsilon,
        "image_size": config.img_h,
        "patch_size": config.patch_dim,
    }
    if config.family == "internvit":
        settings |= {
            "image_size": [config.img_h, config.img_w],
            "patch_size": [config.patch_dim, config.patch_dim],
            "attention_bias": True,
        }
    elif config.img_h != config.img_w:
        raise ConfigError(
            f"Hugging Face's {config.family} takes square images, not {config.img_h}x{config.img_w}"
        )
    return settings


def _check_internvit(settings: dict[str, Any], source: str) -> None:
    """Refuse the 6B variant's layers, and what InternViT's settings allow but none has."""
    old = settings["model_type"] == "intern_vit_6b"
    wrong = {
        "normalized queries and keys": settings.get("qk_normalization" if old else "use_qk_norm"),
        "RMSNorm": settings.get("norm_type", "layer_norm") != "layer_norm",
        "attention without bias": not settings.get("qkv_bias" if old else "attention_bias"),
    }
    for name, there in wrong.items():
        if there:
            raise ConfigError(
                f"{source}: an InternViT with {name} is not supported; use InternViT-300M"
            )


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width
