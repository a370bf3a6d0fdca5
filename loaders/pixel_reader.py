"""A Hugging Face image processor, or a config of ours, as what reads images into pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import ConfigError, ImageError
from .decode import DEFAULT_MAX_PIXELS, decode_image
from .fit_image import count_tiles, process_image
from .hf_settings import translate_processor
from .image_config import Fit, ImageConfig, Mode, Output

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelReader:
    """Reads images as `config` says or, where there is none, by calling `processor`."""

    config: ImageConfig | None
    """Settings that give the processor's own pixels; None where we have none."""
    processor: Any = None
    """Called on each decoded picture where `config` is None; slow, and right for any processor."""
    output: Output = "float32"
    """Of a processor that is called; a config has its own."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """For a processor that is called; a config has its own."""

    def read(self, data: bytes, *, name: str = "image") -> torch.Tensor:
        """Pixels of one image: output[tiles, 3, height, width].

        Raises:
            ImageError: the image is damaged or over the limit, or the processor fails on it.
        """
        if self.config is not None:
            return process_image(data, self.config, name=name)
        return self._call(data, name)

    def count_tiles(self, data: bytes, *, name: str = "image") -> int:
        """Tiles that `read` gives; from the header where there is a config.

        Raises:
            ImageError: as `read`.
        """
        if self.config is not None:
            return count_tiles(data, self.config, name=name)
        return len(self._call(data, name))

    def describe(self) -> str:
        """Which way images are read, in a line for a log."""
        if self.config is not None:
            return f"{self.config.mode} {self.config.fit} to {self.config.size}, by neva-prep"
        return f"calling {type(self.processor).__name__} on each image, which is slow"

    def _call(self, data: bytes, name: str) -> torch.Tensor:
        picture = decode_image(data, max_pixels=self.max_pixels, name=name)
        try:
            found = self.processor.preprocess(picture, return_tensors="pt")["pixel_values"]
        except Exception as error:  # Any code may stand behind this call.
            raise ImageError(
                f"{name}: {type(self.processor).__name__} fails on this image of {picture.width} x "
                f"{picture.height} pixels: {error}; drop it, or change the processor",
                reason="corrupt_image",
            ) from error
        tiles = torch.as_tensor(found)
        if tiles.ndim not in (4, 5) or tiles.shape[-3] != 3:
            raise ConfigError(
                f"{type(self.processor).__name__} gives pixels of shape {tuple(tiles.shape)}; "
                "needed is (1, 3, height, width) or (1, tiles, 3, height, width)"
            )
        return tiles.reshape(-1, *tiles.shape[-3:]).to(_DTYPES[self.output])


def make_pixel_reader(
    processor: Any,
    *,
    mode: Mode | None = None,
    output: Output | None = None,
    fit: Fit | None = None,
    max_pixels: int | None = None,
) -> PixelReader:
    """What reads images as a processor would.

    A CLIP, SigLIP, LLaVA or LLaVA-NeXT processor of transformers is replaced by our own code with
    its settings, which gives the same bits (mode `exact`). Any other is called.

    Args:
        processor: an ImageConfig; an image processor of transformers; anything that has one as
            `image_processor`, such as a LlavaProcessor; or a PixelReader, whose settings stay
            where no others are given.
        mode: `exact` unless given.
        output: `float32` unless given.
        fit: the processor's own unless given; `pad` is what LLaVA-1.5 trains with, although its
            processor says `crop`.
        max_pixels: largest width x height of an image.

    Raises:
        ConfigError: the settings cannot be met with this processor.
    """
    processor = getattr(processor, "image_processor", processor)
    if isinstance(processor, PixelReader):
        if processor.config is None:
            output, max_pixels = output or processor.output, max_pixels or processor.max_pixels
        config, processor = processor.config, processor.processor
    else:
        config = processor if isinstance(processor, ImageConfig) else translate_processor(processor)
    if config is not None:
        return PixelReader(config=_override(config, mode, output, fit, max_pixels))
    kind = type(processor).__name__
    if not callable(getattr(processor, "preprocess", None)):
        raise ConfigError(f"{kind} is no image processor: it has no method preprocess")
    if mode == "fast" or fit is not None or output == "uint8":
        raise ConfigError(
            f"mode={mode!r}, fit={fit!r}, output={output!r}: {kind} with its settings can only "
            "be called, and gives normalised pixels of its own fit; leave the three out, or pass "
            "an ImageConfig instead of the processor"
        )
    return PixelReader(
        config=None,
        processor=processor,
        output=output or "float32",
        max_pixels=max_pixels or DEFAULT_MAX_PIXELS,
    )


def _override(
    config: ImageConfig,
    mode: Mode | None,
    output: Output | None,
    fit: Fit | None,
    max_pixels: int | None,
) -> ImageConfig:
    fit = fit or config.fit
    return replace(
        config,
        mode=mode or config.mode,
        output=output or config.output,
        fit=fit,
        grids=config.grids if fit == "grid" else (),
        max_pixels=max_pixels or config.max_pixels,
    )
