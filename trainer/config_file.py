"""A model's config as JSON, beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .config import MultimodalProjectorConfig, NevaConfig
from .language_config import LanguageConfig, RopeScaling
from .vision_config import HFCLIPVisionConfig, VisionConfig

_VERSION = 1


def write_config(config: NevaConfig, path: Path) -> None:
    """Write it; families are written as the shapes they stand for."""
    content = {"format_version": _VERSION, "neva": asdict(config)}
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_config_file(path: Path) -> NevaConfig:
    """Read it.

    Raises:
        ConfigError: it is not there, or no such config.
    """
    try:
        content = json.loads(path.read_text())
        if content["format_version"] != _VERSION:
            raise ConfigError(
                f"{path}: format {content['format_version']}, and this version of neva-prep reads "
                f"{_VERSION}; use the version that wrote it"
            )
        return _neva(content["neva"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: is no model's config ({error})") from error


def _neva(settings: dict[str, Any]) -> NevaConfig:
    language = settings["language_transformer_config"]
    vision = settings["vision_transformer_config"]
    if scaling := language["rope_scaling"]:
        language = language | {"rope_scaling": _only_known(RopeScaling, scaling)}
    parts: dict[str, Any] = {
        "language_transformer_config": _only_known(LanguageConfig, language),
        "vision_transformer_config": _vision(vision),
        "vision_projection_config": _only_known(
            MultimodalProjectorConfig, settings["vision_projection_config"]
        ),
    }
    made: NevaConfig = _only_known(NevaConfig, settings | parts)
    return made


def _vision(settings: dict[str, Any]) -> VisionConfig | HFCLIPVisionConfig:
    if "pretrained_model_name_or_path" not in settings:
        shape: VisionConfig = _only_known(VisionConfig, settings)
        return shape
    if settings["shape"]:
        settings = settings | {"shape": _only_known(VisionConfig, settings["shape"])}
    tower: HFCLIPVisionConfig = _only_known(HFCLIPVisionConfig, settings)
    return tower


def _only_known(kind: Any, settings: dict[str, Any]) -> Any:
    unknown = set(settings) - {field.name for field in fields(kind)}
    if unknown:
        raise ConfigError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**settings)
