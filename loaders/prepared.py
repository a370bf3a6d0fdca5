"""The sample between energon's hooks: tokenized, its images still files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron.energon import Sample, edataclass

from ..templates.sample import TokenizedSample
from .encoded import EncodedSample
from .pack import Pack


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedText:
    """What a sample encoder makes of a sample: its tokens, and the images that they point to."""

    text: TokenizedSample
    """One image token for each of the images."""
    images: tuple[Any, ...] = ()
    """In the order of their tokens: bytes of image files, PIL images, or pixels as tensors
    uint8[3, height, width] or float[3, height, width] from 0 to 1."""
    num_tiles: tuple[int, ...] | None = None
    """Of each image, where they were counted for the limit; None to count them."""


@edataclass
class PreparedSample(Sample):  # type: ignore[misc]
    """A tokenized sample that waits to be packed; no image is decoded yet."""

    encoded: EncodedSample
    """Without pixels."""
    images: tuple[Any, ...]
    """As an EncodedText has them."""
    length: int
    """Positions that it takes in a pack."""
    events: dict[str, int]
    """Reason -> how often it was cut, shortened or escaped."""


@edataclass
class ReadySample(Sample):  # type: ignore[misc]
    """A sample with its pixels."""

    encoded: EncodedSample
    events: dict[str, int]


@edataclass
class PackedSample(Sample):  # type: ignore[misc]
    """Several samples in one row."""

    pack: Pack
    events: list[dict[str, int]]
    """Of each sample."""
