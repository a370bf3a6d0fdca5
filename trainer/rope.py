"""Rotary frequencies, computed as Hugging Face computes them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .language_config import LanguageConfig, RopeScaling


def rotary_frequencies(config: LanguageConfig) -> Tensor:
    """Angle by which each pair of channels turns per position.

    Returns:
        float32[rotated channels / 2]
    """
    rotated = int(config.head_size * config.rotary_percent)
    exponents = torch.arange(0, rotated, 2, dtype=torch.float32) / rotated
    frequencies = 1.0 / config.rotary_base**exponents
    if config.rope_scaling is None:
        return frequencies
    return _stretch(frequencies, config.rope_scaling)


def _stretch(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's rule: slow pairs turn `factor` times slower, fast ones as before."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0.0, 1.0)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies
