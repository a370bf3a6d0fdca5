"""Language models by their shapes: one dataclass, and the families as its defaults.

Field names are megatron-core's. Sizes shrink with `dataclasses.replace`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError

Family = Literal["llama", "mistral", "nemotron", "qwen2"]
"""Hugging Face's `model_type`: how weights are named there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Rotary frequencies stretched for longer contexts, as Llama 3.1 does it."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        """Refuse bounds that meet: frequencies between them are divided by their distance."""
        if not self.low_freq_factor < self.high_freq_factor:
            raise ConfigError(
                f"rope_scaling: low_freq_factor={self.low_freq_factor} must be below "
                f"high_freq_factor={self.high_freq_factor}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig:
    """A decoder. The defaults are LLaMA 2 7B's."""

    family: Family = "llama"
    num_layers: int = 32
    hidden_size: int = 4096
    ffn_hidden_size: int = 11008
    num_attention_heads: int = 32
    num_query_groups: int = 32
    """Heads of keys and values; fewer than `num_attention_heads` is grouped-query attention."""
    kv_channels: int | None = None
    """Size of a head; None for hidden_size / num_attention_heads."""
    vocab_size: int = 32000
    seq_length: int = 4096
    """Positions that the model was made for."""
    activation: Literal["silu", "squared_relu"] = "silu"
    gated_linear_unit: bool = True
    """Multiply the activation with a second projection, as SwiGLU does."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    layernorm_epsilon: float = 1e-5
    layernorm_zero_centered_gamma: bool = False
    """Norms multiply with 1 + weight, not with the weight."""
    add_qkv_bias: bool = False
    share_embeddings_and_output_weights: bool = False
    """The output layer is the embedding's transpose."""
    rotary_base: float = 10000.0
    rotary_percent: float = 1.0
    """Share of each head that is rotated."""
    rope_scaling: RopeScaling | None = None
    window_size: int | None = None
    """Positions that a token sees, itself included; None for all before it."""
    init_method_std: float = 0.02

    def __post_init__(self) -> None:
        """Refuse shapes that no decoder has."""
        for name in ("num_layers", "hidden_size", "ffn_hidden_size", "vocab_size", "seq_length"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"language model: {name}={getattr(self, name)}: must be 1 or more"
                )
        if self.num_attention_heads % self.num_query_groups:
            raise ConfigError(
                f"language model: num_attention_heads={self.num_attention_heads} is no multiple of "
                f"num_query_groups={self.num_query_groups}, so heads could not share keys evenly"
            )
        if self.kv_channels is None and self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"language model: hidden_size={self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads; set kv_channels"
            )
        if int(self.head_size * self.rotary_percent) % 2:
            raise ConfigError(
                f"language model: rotary_percent={self.rotary_percent} of a head of "
                f"{self.head_size} is an odd number, and rotation works on pairs"
            )
        if self.window_size is not None and self.window_size < 1:
            raise ConfigError(f"language model: window_size={self.window_size}: must be 1 or more")

    @property
    def head_size(self) -> int:
        """Channels of a head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama2Config7B(LanguageConfig):
    """LLaMA 2 7B; Vicuna v1.5 7B has its shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama2Config13B(LanguageConfig):
    """LLaMA 2 13B; Vicuna v1.5 13B has its shape."""

    num_layers: int = 40
    hidden_size: int = 5120
    ffn_hidden_size: int = 13824
    num_attention_heads: int = 40
    num_query_groups: int = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Config8B(LanguageConfig):
    """Llama 3 8B."""

    ffn_hidden_size: int = 14336
    num_query_groups: int = 8
    vocab_size: int = 128256
    seq_length: int = 8192
    rotary_base: float = 500000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama31Config8B(Llama3Config8B):
    """Llama 3.1 8B: Llama 3 with stretched rotary frequencies."""

    seq_length: int = 131072
    rope_scaling: RopeScaling | None = RopeScaling()


@dataclass(frozen=True, slots=True, kw_only=True)
class MistralConfig7B(LanguageConfig):
    """Mistral 7B v0.2 and v0.3; v0.1 has window_size=4096, rotary_base=10000."""

    family: Family = "mistral"
    ffn_hidden_size: int = 14336
    num_query_groups: int = 8
    seq_length: int = 32768
    rotary_base: float = 1000000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NemotronConfig(LanguageConfig):
    """Nemotron: squared ReLU, LayerNorm with 1 + weight, half of each head rotated."""

    family: Family = "nemotron"
    activation: Literal["silu", "squared_relu"] = "squared_relu"
    gated_linear_unit: bool = False
    normalization: Literal["RMSNorm", "LayerNorm"] = "LayerNorm"
    layernorm_zero_centered_gamma: bool = True
    rotary_percent: float = 0.5
    vocab_size: int = 256000
    init_method_std: float = 0.0134


@dataclass(frozen=True, slots=True, kw_only=True)
class Nemotron4MiniConfig4B(NemotronConfig):
    """Nemotron-4 Mini 4B (Minitron)."""

    hidden_size: int = 3072
    ffn_hidden_size: int = 9216
    num_attention_heads: int = 24
    num_query_groups: int = 8
    kv_channels: int | None = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Nemotron3Config8B(NemotronConfig):
    """Nemotron-3 8B."""

    ffn_hidden_size: int = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen25Config7B(LanguageConfig):
    """Qwen2.5 7B."""

    family: Family = "qwen2"
    num_layers: int = 28
    hidden_size: int = 3584
    ffn_hidden_size: int = 18944
    num_attention_heads: int = 28
    num_query_groups: int = 4
    vocab_size: int = 152064
    seq_length: int = 32768
    layernorm_epsilon: float = 1e-6
    add_qkv_bias: bool = True
    rotary_base: float = 1000000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen25Config500M(Qwen25Config7B):
    """Qwen2.5 0.5B, whose output layer is its embedding."""

    num_layers: int = 24
    hidden_size: int = 896
    ffn_hidden_size: int = 4864
    num_attention_heads: int = 14
    num_query_groups: int = 2
    vocab_size: int = 151936
    share_embeddings_and_output_weights: bool = True
