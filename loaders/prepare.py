"""A sample is prepared in two steps: its tokens first, its pixels once it is in a pack."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError, PackError
from .encoded import EncodedSample, RowConfig, length
from .encoders import ENCODERS
from .packer import Packer
from .prepared import EncodedText, PreparedSample, ReadySample
from .read_image import ImageReader, count_tiles, read_images
from .text_rules import TextRules

SampleEncoder = Callable[[Any, TextRules], EncodedText]
"""Makes tokens of one type of sample; raises a NevaPrepError for a bad one."""
_PLAIN = (bool, int, float, str, list, tuple, dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparer:
    """What preparing needs to know; the same for all samples of a stream."""

    rules: TextRules
    rows: RowConfig
    reader: ImageReader
    packer: Packer | None
    """None where samples are not packed."""
    encoders: dict[str, SampleEncoder] = field(default_factory=lambda: dict(ENCODERS))
    """By the name of the type."""

    def tokens(self, sample: Any) -> PreparedSample:
        """Tokens of a sample, and how long it is; its images are only counted.

        Raises:
            RecordError, TemplateError, ImageError: the sample is bad.
            PackError: it is too long.
            ConfigError: no encoder is known for its type.
        """
        found = self._encoder_of(sample)(sample, self.rules)
        counted = found.num_tiles
        if counted is None:
            counted = tuple(count_tiles(sample.__key__, found.images, self.reader))
        encoded = EncodedSample(
            key=sample.__key__,
            tokens=found.text.tokens,
            labels=found.text.labels,
            num_tiles=np.array(counted, dtype=np.int64),
            origin=origin_of(sample),
        )
        size = length(encoded, self.rows)
        self._check_length(encoded.key, size, sum(counted))
        prepared: PreparedSample = PreparedSample.derive_from(
            sample,
            encoded=encoded,
            images=found.images,
            length=size,
            events=dict(found.text.events),
        )
        return prepared

    def pixels(self, sample: PreparedSample) -> ReadySample:
        """The sample with its images decoded.

        Raises:
            ImageError: an image is damaged or over the limit.
            RecordError: it is no image.
        """
        encoded = sample.encoded
        with_pixels = EncodedSample(
            key=encoded.key,
            tokens=encoded.tokens,
            labels=encoded.labels,
            num_tiles=encoded.num_tiles,
            pixels=read_images(encoded.key, sample.images, self.reader),
            origin=encoded.origin,
        )
        ready: ReadySample = ReadySample.derive_from(
            sample, encoded=with_pixels, events=sample.events
        )
        return ready

    def describe(self) -> dict[str, Any]:
        """The settings that decide what a sample becomes, as plain data; for resume.py."""
        return {
            "rows": repr(self.rows),
            "images": _describe_reader(self.reader),
            "max_length": self.rules.max_length,
            "overflow": self.rules.overflow,
            "image_placement": self.rules.image_placement,
            "special_text": self.rules.special_text,
            "sample_config": repr(self.rules.config),
            "template": repr(self.rules.named_template),
            "encoders": sorted(
                f"{name}: {getattr(function, '__module__', '')}."
                f"{getattr(function, '__qualname__', type(function).__qualname__)}"
                for name, function in self.encoders.items()
            ),
        }

    def _encoder_of(self, sample: Any) -> SampleEncoder:
        for kind in type(sample).__mro__:
            if kind.__name__ in self.encoders:
                return self.encoders[kind.__name__]
        raise ConfigError(
            f"{type(sample).__name__}: no encoder is known for this type of sample; known are "
            f"{', '.join(sorted(self.encoders))}; add one with register_encoder"
        )

    def _check_length(self, key: str, size: int, tiles: int) -> None:
        limit = self.rules.max_length
        if self.packer is not None:
            self.packer.check(key, size, tiles)
        elif limit is not None and size >= limit:
            raise PackError(
                f"sample {key}: takes {size} positions with the {tiles} tiles of its images, the "
                f"limit is {limit - 1}; raise seq_length",
                reason="too_long",
            )


def _describe_reader(reader: ImageReader) -> Any:
    """What decides the pixels: its config, or what is known of the processor that it calls."""
    if reader.config is not None:
        return repr(reader.config)
    to_dict = getattr(getattr(reader, "processor", None), "to_dict", None)
    if not callable(to_dict):
        return reader.describe()
    # Without what is not set, which another release of transformers may add.
    known = {name: value for name, value in to_dict().items() if isinstance(value, _PLAIN)}
    settings = json.loads(json.dumps(known, default=str))
    return {"reader": reader.describe(), "output": reader.output, **settings}


def pad_id_of(tokenizer: Any) -> int:
    """The token that fills rows: the tokenizer's for that, else one that it has anyway."""
    for name in ("pad_token_id", "unk_token_id", "eos_token_id"):
        number = getattr(tokenizer, name, None)
        if number is not None:
            return int(number)
    return 0


def image_size_of(reader: ImageReader) -> tuple[int, int]:
    """Height and width of its tiles, for a batch that has none."""
    return (reader.config.size, reader.config.size) if reader.config else (336, 336)


def media_type_of(reader: ImageReader) -> torch.dtype:
    """Type of its pixels, for a batch that has none."""
    output = reader.config.output if reader.config else reader.output
    kinds: Mapping[str, torch.dtype] = {"uint8": torch.uint8, "float32": torch.float32}
    return kinds.get(output, torch.bfloat16)


def origin_of(sample: Any) -> str:
    """The dataset that a sample was read from; empty where that is not known."""
    sources = getattr(sample, "__sources__", None)
    return str(sources[0].dataset_path) if sources else ""
