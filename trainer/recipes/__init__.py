"""Recipes: a run that is known to work, to be changed where yours differs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import tiny as tiny
    from .large import llava15_7b as llava15_7b
    from .large import llava15_13b as llava15_13b
    from .large import neva_llama3_8b as neva_llama3_8b

__all__ = ["llava15_7b", "llava15_13b", "neva_llama3_8b", "tiny"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "tiny":
        return importlib.import_module(".tiny", __name__)
    return getattr(importlib.import_module(".large", __name__), name)
