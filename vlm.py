"""All names of the loaders and the trainer in one place, as NeMo's `vlm` has them.

`from nemo.collections import vlm` becomes `from neva_prep import vlm`.
"""

from __future__ import annotations

from typing import Any

from . import loaders, trainer

__all__ = ["loaders", "trainer"]


def __getattr__(name: str) -> Any:
    for part in (trainer, loaders):
        if name in part.__all__:
            return getattr(part, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*trainer.__all__, *loaders.__all__})
