"""Encoded samples for the tests of packing and batching, and what a model makes of a row."""

import numpy as np
import torch
from hypothesis import strategies as st

from neva_prep.loaders.encoded import EncodedSample

IMAGE = -200
IGNORE = -100
SIDE = 2


def encoded(
    key: str,
    tokens: list[int],
    labels: list[int] | None = None,
    tiles: list[int] | None = None,
    color: int = 0,
) -> EncodedSample:
    """A sample trained on every text token but the first, or as told; one tile per image."""
    num_tiles = [1] * tokens.count(IMAGE) if tiles is None else tiles
    every = [IGNORE, *(IGNORE if token == IMAGE else token for token in tokens[1:])]
    return EncodedSample(
        key=key,
        tokens=np.array(tokens, np.int64),
        labels=np.array(every if labels is None else labels, np.int64),
        num_tiles=np.array(num_tiles, np.int64),
        pixels=torch.full((sum(num_tiles), 3, SIDE, SIDE), color, dtype=torch.uint8),
    )


@st.composite
def encoded_samples(draw: st.DrawFn) -> EncodedSample:
    """Any sample: images anywhere, several in a row, of several tiles; loss anywhere on text."""
    tokens = draw(st.lists(st.sampled_from([IMAGE, *range(1, 30)]), min_size=2, max_size=12))
    trained = draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    images = tokens.count(IMAGE)
    return encoded(
        draw(st.uuids()).hex,
        tokens,
        [t if on and t != IMAGE else IGNORE for t, on in zip(tokens, trained, strict=True)],
        draw(st.lists(st.integers(1, 3), min_size=images, max_size=images)),
    )


def expand(
    tokens: list[int], labels: list[int], positions: list[int], sizes: list[int]
) -> list[tuple[int, int, int]]:
    """What a model makes of a row: (token, position, label) of each embedding.

    The embeddings of an image take its slot's place. The last of them has the slot's label; the
    others have none, since what follows them is an embedding.
    """
    images = iter(sizes)
    expanded = []
    for token, label, position in zip(tokens, labels, positions, strict=True):
        size = next(images) if token == IMAGE else 1
        for step in range(size):
            last = step == size - 1
            expanded.append((token, position + step, label if last else IGNORE))
    assert next(images, None) is None
    return expanded


def expand_then_shift(sample: EncodedSample, embeddings: int) -> list[tuple[int, int, int]]:
    """The same the other way about, as Hugging Face's LLaVA does it: expand, then shift."""
    sizes = iter((sample.num_tiles * embeddings).tolist())
    tokens: list[int] = []
    labels: list[int] = []
    for token, label in zip(sample.tokens.tolist(), sample.labels.tolist(), strict=True):
        size = next(sizes) if token == IMAGE else 1
        tokens += [token] * size
        labels += [label] * size
    labels = [*labels[1:], IGNORE]
    return [
        (token, place, label)
        for place, (token, label) in enumerate(zip(tokens, labels, strict=True))
    ]
