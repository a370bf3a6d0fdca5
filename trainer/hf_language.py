"""Settings of Hugging Face's language models as ours, and back."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from .language_config import LanguageConfig, RopeScaling


def language_from_hf(settings: dict[str, Any], source: str) -> LanguageConfig:
    """A decoder from its `text_config`.

    Raises:
        ConfigError: it has something that ours lacks.
    """
    family = settings["model_type"]
    if family not in ("llama", "mistral", "nemotron", "qwen2"):
        raise ConfigError(
            f"{source}: language model of type {family!r}: llama, mistral, nemotron and qwen2 are "
            "supported"
        )
    for name in ("attention_bias", "mlp_bias"):
        if settings.get(name):
            raise ConfigError(f"{source}: {name}=true: the layers here have no such bias")
    activation = settings["hidden_act"]
    if activation != ("relu2" if family == "nemotron" else "silu"):
        raise ConfigError(f"{source}: hidden_act={activation!r} is not that of a {family} model")
    nemotron = family == "nemotron"
    rope = settings["rope_parameters"]
    return LanguageConfig(
        family=family,
        num_layers=settings["num_hidden_layers"],
        hidden_size=settings["hidden_size"],
        ffn_hidden_size=settings["intermediate_size"],
        num_attention_heads=settings["num_attention_heads"],
        num_query_groups=settings["num_key_value_heads"],
        kv_channels=settings.get("head_dim"),
        vocab_size=settings["vocab_size"],
        seq_length=settings["max_position_embeddings"],
        activation="squared_relu" if nemotron else "silu",
        gated_linear_unit=not nemotron,
        normalization="LayerNorm" if nemotron else "RMSNorm",
        layernorm_epsilon=settings["norm_eps" if nemotron else "rms_norm_eps"],
        layernorm_zero_centered_gamma=nemotron,
        add_qkv_bias=family == "qwen2",
        share_embeddings_and_output_weights=bool(settings.get("tie_word_embeddings")),
        rotary_base=rope["rope_theta"],
        # Hugging Face's other families rotate whole heads, whatever their settings say.
        rotary_percent=rope.get("partial_rotary_factor", 1.0) if nemotron else 1.0,
        rope_scaling=_scaling(rope, source),
        window_size=_window(settings, source),
        init_method_std=settings["initializer_range"],
    )


def language_to_hf(config: LanguageConfig) -> dict[str, Any]:
    """Its `text_config`.

    Raises:
        ConfigError: its family in Hugging Face cannot be it.
    """
    _check_family(config)
    nemotron = config.family == "nemotron"
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
    if nemotron:
        rope["partial_rotary_factor"] = config.rotary_percent
    if (scaling := config.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
        }
    settings: dict[str, Any] = {
        "model_type": config.family,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_query_groups,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.seq_length,
        "hidden_act": "relu2" if nemotron else "silu",
        "norm_eps" if nemotron else "rms_norm_eps": config.layernorm_epsilon,
        "rope_parameters": rope,
        "initializer_range": config.init_method_std,
        "tie_word_embeddings": config.share_embeddings_and_output_weights,
    }
    if config.family == "mistral":
        settings["sliding_window"] = config.window_size
    # Qwen2's own config has no such setting, and those who read it take it where it is told.
    if config.family != "qwen2" or config.kv_channels is not None:
        settings["head_dim"] = config.head_size
    return settings


def _check_family(config: LanguageConfig) -> None:
    """Refuse a decoder that would come back from Hugging Face as another one."""
    nemotron = config.family == "nemotron"
    expected: dict[str, Any] = {
        "activation": "squared_relu" if nemotron else "silu",
        "gated_linear_unit": not nemotron,
        "normalization": "LayerNorm" if nemotron else "RMSNorm",
        "layernorm_zero_centered_gamma": nemotron,
        "add_qkv_bias": config.family == "qwen2",
    }
    if not nemotron:
        expected["rotary_percent"] = 1.0
    if config.family != "mistral":
        expected["window_size"] = None
    wrong = [f"{n}={getattr(config, n)!r}" for n, v in expected.items() if getattr(config, n) != v]
    if wrong:
        raise ConfigError(
            f"export: Hugging Face's {config.family} has no {', '.join(wrong)}; choose the family "
            "that has"
        )


def _scaling(rope: dict[str, Any], source: str) -> RopeScaling | None:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind != "llama3":
        raise ConfigError(
            f"{source}: rope_type={kind!r}: positions would be read differently than the model "
            "learned them; default and llama3 are supported"
        )
    return RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_max_position_embeddings=rope["original_max_position_embeddings"],
    )


def _window(settings: dict[str, Any], source: str) -> int | None:
    # Hugging Face's Llama and Nemotron see everything, whatever their settings say.
    if settings["model_type"] not in ("mistral", "qwen2"):
        return None
    window: int | None = settings.get("sliding_window")
    if settings["model_type"] == "qwen2" and window is not None:
        # Its first max_window_layers layers see everything, the others only the window.
        raise ConfigError(
            f"{source}: use_sliding_window=true: layers that see a window beside layers that see "
            "everything are not supported; set it to false for rows shorter than "
            f"{window} positions"
        )
    return window
