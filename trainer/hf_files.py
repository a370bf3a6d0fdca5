"""Weights in a folder of safetensors, one tensor at a time, under one spelling of their names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from .hub import shards

_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # transformers 5 has one more level in memory, transformers 4 others in its files.
        (r"^model\.(?=vision_tower|multi_modal_projector|language_model)", ""),
        (r"^language_model\.model\.", "language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^vision_tower\.vision_model\.", "vision_tower."),
        # A language model or a vision tower by itself.
        (r"^model\.(?=embed_tokens|layers|norm)", "language_model."),
        (r"^vision_model\.", "vision_tower."),
        (r"^(?=embeddings\.|encoder\.|pre_layrnorm\.|post_layernorm\.|head\.)", "vision_tower."),
    )
]


def canonical(name: str) -> str:
    """A weight's name as transformers 5 has it in memory, without `model.`.

    Example:
        >>> canonical("language_model.model.layers.0.mlp.up_proj.weight")
        'language_model.layers.0.mlp.up_proj.weight'
        >>> canonical("vision_model.embeddings.class_embedding")
        'vision_tower.embeddings.class_embedding'
    """
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name)
    return name


class WeightFolder:
    """The weights of a folder. Shards are mapped into memory, and read where they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the names.

        Raises:
            ConfigError: there are no safetensors, or a shard of the index is missing.
        """
        self.folder = folder
        self._shards: dict[Path, Any] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        for path in _shard_paths(folder):
            self._places |= {canonical(name): (path, name) for name in self._open(path)}

    def names(self) -> set[str]:
        """Canonical names of all weights."""
        return set(self._places)

    def kinds(self) -> Counter[str]:
        """How many weights there are of each kind of numbers, in safetensors' words: F32, BF16."""
        return Counter(
            self._shards[path].get_slice(stored).get_dtype()
            for path, stored in self._places.values()
        )

    def read(self, name: str) -> Tensor:
        """A weight, by its canonical name.

        Raises:
            ConfigError: the folder does not have it.
        """
        if name not in self._places:
            raise ConfigError(f"{self.folder}: has no weight {name!r}; it belongs to another model")
        path, stored = self._places[name]
        self._open(path)
        tensor: Tensor = self._shards[path].get_tensor(stored)
        return tensor

    def _open(self, path: Path) -> list[str]:
        """Names in a shard, which stays open."""
        from safetensors import SafetensorError, safe_open

        if path not in self._shards:
            try:
                self._shards[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise ConfigError(f"{path}: cannot be read: {error}; fetch it again") from error
        return list(self._shards[path].keys())


def _shard_paths(folder: Path) -> list[Path]:
    paths = [folder / name for name in shards(folder)]
    missing = [path for path in paths if not path.is_file()]
    if missing and len(paths) > 1:
        raise ConfigError(f"{missing[0]}: the folder's index names it, and it is not there")
    if missing:
        raise ConfigError(
            f"{folder}: has no model.safetensors; weights of other kinds are pickles, which run "
            "code: save the model as safetensors"
        )
    return paths
