"""Streaming loaders: shards become samples, packs and batches.

Names are imported when first used: converting and verifying import this package without torch.
No module may have one of them as its own: once imported, it would stand in the name's place.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..templates.config import (
        BaseConversationTemplateConfig as BaseConversationTemplateConfig,
    )
    from ..templates.config import ImageToken as ImageToken
    from ..templates.config import LLaVATemplateConfig as LLaVATemplateConfig
    from .batch import Batch as Batch
    from .batch import PackedSeqParams as PackedSeqParams
    from .config import MultiModalSampleConfig as MultiModalSampleConfig
    from .config import VideoToken as VideoToken
    from .data_module import EnergonMultiModalDataModule as EnergonMultiModalDataModule
    from .fit_image import process_image as process_image
    from .image_config import ImageConfig as ImageConfig
    from .lazy import ImageDataConfig as ImageDataConfig
    from .lazy import NevaLazyDataModule as NevaLazyDataModule
    from .mock import MockDataModule as MockDataModule
    from .pixel_reader import PixelReader as PixelReader
    from .pixel_reader import make_pixel_reader as make_pixel_reader
    from .pixel_values import normalize as normalize
    from .prepared import EncodedText as EncodedText
    from .skips import SkipReport as SkipReport
    from .stream import open_dataset as open_dataset
    from .task_encoder import MultiModalTaskEncoder as MultiModalTaskEncoder
    from .text_rules import TextRules as TextRules

_HOME = {
    "BaseConversationTemplateConfig": "..templates.config",
    "Batch": ".batch",
    "EncodedText": ".prepared",
    "EnergonMultiModalDataModule": ".data_module",
    "ImageConfig": ".image_config",
    "ImageDataConfig": ".lazy",
    "ImageToken": "..templates.config",
    "LLaVATemplateConfig": "..templates.config",
    "MockDataModule": ".mock",
    "MultiModalSampleConfig": ".config",
    "MultiModalTaskEncoder": ".task_encoder",
    "NevaLazyDataModule": ".lazy",
    "PackedSeqParams": ".batch",
    "PixelReader": ".pixel_reader",
    "SkipReport": ".skips",
    "TextRules": ".text_rules",
    "VideoToken": ".config",
    "make_pixel_reader": ".pixel_reader",
    "normalize": ".pixel_values",
    "open_dataset": ".stream",
    "process_image": ".fit_image",
}

__all__ = [
    "BaseConversationTemplateConfig",
    "Batch",
    "EncodedText",
    "EnergonMultiModalDataModule",
    "ImageConfig",
    "ImageDataConfig",
    "ImageToken",
    "LLaVATemplateConfig",
    "MockDataModule",
    "MultiModalSampleConfig",
    "MultiModalTaskEncoder",
    "NevaLazyDataModule",
    "PackedSeqParams",
    "PixelReader",
    "SkipReport",
    "TextRules",
    "VideoToken",
    "make_pixel_reader",
    "normalize",
    "open_dataset",
    "process_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
