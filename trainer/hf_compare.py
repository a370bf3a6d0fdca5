"""Whether a Hugging Face folder holds the model that a config describes.

Weights of the same shapes can belong to another model: other rotary frequencies, another epsilon,
another activation. They would load, and compute something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .config import NevaConfig
from .hf_config import read_config, read_vision
from .hf_language import language_from_hf
from .language_config import LanguageConfig

_FREE = frozenset({"init_method_std", "seq_length"})
"""Settings that may differ from the folder's: they change neither weights nor what is computed."""
_FREE_OF_A_PART = _FREE | {"family", "vocab_size"}
"""A language model by itself may have another name and fewer words."""


def compare(ours: Any, theirs: Any, folder: Path, free: frozenset[str] = _FREE) -> None:
    """Refuse a folder whose settings are not those of a config.

    Args:
        ours: a LanguageConfig or VisionConfig.
        theirs: of the same class, read from the folder.
        folder: named in errors.
        free: settings that may differ.

    Raises:
        ConfigError: the message has all that differs.
    """
    differing = [
        f"{field.name}={_value(ours, field.name)} and there {_value(theirs, field.name)}"
        for field in fields(ours)
        if field.name not in free and _value(ours, field.name) != _value(theirs, field.name)
    ]
    refuse_differing(differing, ours, folder)


def compare_part(config: NevaConfig, part: str, folder: Path) -> None:
    """Refuse a folder that a part of a model is to be filled from, if it holds another one.

    Args:
        config: of the whole model.
        part: `language_model` or `vision_model`; there is nothing to compare of a projector.
        folder: of such a model alone, or of one that has it; without config.json all is taken.

    Raises:
        ConfigError: the message has all that differs.
    """
    if part == "vision_projection" or not (folder / "config.json").exists():
        return
    if part == "vision_model":
        compare(config.vision_shape, read_vision(folder), folder)
        return
    ours = config.language_transformer_config
    compare(ours, _read_language(folder), folder, _FREE_OF_A_PART)


def refuse_differing(differing: Sequence[str], ours: Any, folder: Path) -> None:
    """Raise what was found, if anything was."""
    if differing:
        raise ConfigError(
            f"{folder}: is another model than {type(ours).__name__}: {'; '.join(differing)}; "
            "give the config of this one, or none to take it as it is"
        )


def _value(config: Any, name: str) -> Any:
    """Heads of the size that follows from the others are the same, written out or not."""
    return config.head_size if name == "kv_channels" else getattr(config, name)


def _read_language(folder: Path) -> LanguageConfig:
    settings = read_config(folder)
    language = language_from_hf(settings.get("text_config") or settings, str(folder))
    tied = bool(settings.get("tie_word_embeddings")) or language.share_embeddings_and_output_weights
    return replace(language, share_embeddings_and_output_weights=tied)
