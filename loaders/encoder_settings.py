"""Checks of a task encoder's settings, made before anything is read."""

from __future__ import annotations

from typing import get_args

from ..errors import ConfigError
from ..templates.encode import SpecialText
from ..templates.overflow import Overflow
from ..templates.render import ImagePlacement


def check_choices(*, overflow: str, image_placement: str, special_text: str) -> None:
    """Refuse a word that is none of a setting's with a ConfigError.

    Found later, it would be taken for a fault of each sample, and all were skipped.
    """
    for name, value, choices in (
        ("overflow", overflow, Overflow),
        ("image_placement", image_placement, ImagePlacement),
        ("special_text", special_text, SpecialText),
    ):
        if value not in get_args(choices):
            allowed = ", ".join(get_args(choices))
            raise ConfigError(f"{name}={value!r}: must be one of {allowed}")


def check_packs(size: int, alignment: int, *, pad_packs: bool) -> None:
    """Refuse packs that no sample fits, or that cannot be filled, with a ConfigError."""
    if size < 1:
        raise ConfigError(f"packed_sequence_size={size}: packs need a size; for example 4096")
    if alignment < 1 or size < alignment:
        raise ConfigError(
            f"pack_alignment={alignment} with packed_sequence_size={size}: must be 1 or more, and "
            "no more than a pack, or no sample fits"
        )
    if pad_packs and size % alignment:
        raise ConfigError(
            f"pad_packs with packed_sequence_size={size}: the last sample would end outside the "
            f"pack_alignment of {alignment}; {size // alignment * alignment} is a multiple of it"
        )
