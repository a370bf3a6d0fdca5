"""The settings of a Hugging Face image processor, as a config of ours that gives its pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .image_config import Fit, ImageConfig

_KINDS = (
    "CLIPImageProcessor",
    "LlavaImageProcessor",
    "LlavaNextImageProcessor",
    "SiglipImageProcessor",
)
_BICUBIC = 3


def translate_processor(processor: Any) -> ImageConfig | None:
    """A config that gives the pixels of a processor's PIL backend, bit for bit.

    Processors of the torchvision backend are translated too; what they give themselves differs
    from their PIL backend by a level or two of 255.

    Args:
        processor: an image processor of transformers.

    Returns:
        The config; None if the processor is of another kind, or set to what a config cannot say.
    """
    kind = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    if not type(processor).__module__.startswith("transformers.") or kind not in _KINDS:
        return None
    if not _usual_arithmetic(processor):
        return None
    square = _square(processor)
    if square is None:
        return None
    fit, size = square
    grids: tuple[tuple[int, int], ...] = ()
    if kind == "LlavaNextImageProcessor":
        fit, grids = (
            "grid",
            tuple((height, width) for height, width in processor.image_grid_pinpoints),
        )
        if any(edge < size or edge % size for grid in grids for edge in grid):
            return None
    elif processor.do_pad:
        if kind != "LlavaImageProcessor":
            return None
        fit = "pad"
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    return ImageConfig(size=size, fit=fit, grids=grids, mean=mean, std=std)


def _usual_arithmetic(processor: Any) -> bool:
    steps = processor.do_resize and processor.do_rescale and processor.do_normalize
    return bool(
        steps
        and processor.resample == _BICUBIC
        and processor.rescale_factor == 1 / 255
        and all(_is_triple(values) for values in (processor.image_mean, processor.image_std))
    )


def _is_triple(values: Any) -> bool:
    return isinstance(values, Iterable) and len(tuple(values)) == 3


def _square(processor: Any) -> tuple[Fit, int] | None:
    """How the processor makes a square, and its edge; None if it makes none."""
    size, cut = _edges(processor.size), {}
    if processor.do_center_crop:
        cut = _edges(processor.crop_size)
        if not cut or cut["height"] != cut["width"]:
            return None
    if set(size) == {"shortest_edge"}:
        edge = size["shortest_edge"]
        return ("crop", edge) if cut and cut["height"] == edge else None
    if set(size) == {"height", "width"} and size["height"] == size["width"]:
        edge = size["height"]
        return ("squash", edge) if not cut or cut["height"] == edge else None
    return None


def _edges(size: Any) -> dict[str, int]:
    """The edges that a size gives; it is a mapping, or transformers' object of the same names."""
    return {name: int(edge) for name, edge in dict(size or {}).items() if edge}
