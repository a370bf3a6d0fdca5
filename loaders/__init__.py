"""Streaming loaders: shards become samples, packs and batches.

Names are imported when first used: converting and verifying import this package without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stream import open_dataset as open_dataset

_HOME = {"open_dataset": ".stream"}

__all__ = ["open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
