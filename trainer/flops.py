"""How much a step computes, for MFU: multiplications and additions that the model needs.

As in PaLM's appendix B: two for each weight and position forward, four backward. Weights that are
frozen have no gradient of their own, which is two of the four. What is computed again to spare
memory does not count.
"""

from __future__ import annotations

from .build import Training
from .config import NevaConfig

PEAKS = {"H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12, "B200": 2250e12}
"""bfloat16 operations a second of GPUs by a part of their name, from their makers' data sheets."""


def peak_flops(name: str) -> float | None:
    """What a GPU could reach; None where it is not known."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def step_flops(training: Training, *, positions: int, squares: int, tiles: int) -> float:
    """Operations of rows, forward and backward.

    Args:
        training: which weights are trained.
        positions: of samples.
        squares: sum of the squares of their lengths.
        tiles: of images.
    """
    neva, peft = training.neva, training.peft
    frozen = peft or neva
    language = neva.language_transformer_config
    passes = 2 if peft is not None or frozen.freeze_language_model else 3
    words = 2.0 * language_weights(neva) * passes * positions
    # Scores and sums, of which a causal mask leaves half; their backward pass is twice as much.
    heads = language.num_attention_heads * language.head_size
    attention = 2.0 * heads * language.num_layers * 3 * squares
    shape = neva.vision_shape
    assert shape is not None
    seen = shape.num_patches + shape.add_class_token
    layer = 4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.ffn_hidden_size
    vision = 2.0 * neva.num_vision_layers * (layer + 2 * shape.hidden_size * seen) * seen * tiles
    return words + attention + vision * (1 if frozen.freeze_vision_model else 3)


def language_weights(neva: NevaConfig) -> int:
    """Weights of the decoder that each position passes, its output layer included."""
    language = neva.language_transformer_config
    heads = language.num_attention_heads + 2 * language.num_query_groups
    attention = language.hidden_size * language.head_size * (heads + language.num_attention_heads)
    mlp = language.hidden_size * language.ffn_hidden_size * (2 + language.gated_linear_unit)
    output = language.vocab_size * language.hidden_size
    return language.num_layers * (attention + mlp) + output
