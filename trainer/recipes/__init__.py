"""Recipes: a run that is known to work, to be changed where yours differs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import llava15_7b as llava15_7b
    from . import llava15_13b as llava15_13b
    from . import neva_llama3_8b as neva_llama3_8b
    from . import tiny as tiny

__all__ = ["llava15_7b", "llava15_13b", "neva_llama3_8b", "tiny"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
