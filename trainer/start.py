"""Where a run begins: behind its last checkpoint, at weights it was given, or at random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .checkpoint import checkpoints_of, read_marker
from .config import NevaConfig
from .config_file import read_config_file
from .hub import cache_folder
from .recipe import Recipe
from .same_run import check_same_run
from .saved import load_merged, saved_lora
from .weights import checkpoint_config, config_path, hf_files

_FREE = ("init_method_std", "seq_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a run begins."""

    neva: NevaConfig
    """The model, with the image token's id that the weights' tokenizer has."""
    checkpoint: Path | None = None
    """Of this run, to go on from."""
    load: Callable[[Sequence[Any]], Any] | None = None
    """Fills the model with the weights that a run begins from."""
    adapter: Path | None = None
    """Of PEFT's format, for adapters to begin as."""
    files: Path | None = None
    """Tokenizer's and processor's files, to be kept with checkpoints."""
    what: str = "random weights"
    """For people."""


def find_start(recipe: Recipe) -> Start:
    """The start of a run.

    Raises:
        ConfigError: the weights are not there or are another model's, or a run would go on with
            settings that it cannot go on with.
    """
    run = run_folder(recipe)
    found = checkpoints_of(run) if recipe.resume.resume_if_exists else []
    files = _given_files(recipe)
    neva = recipe.model.config
    if found:
        last = found[-1]
        theirs = read_config_file(config_path(last))
        neva = _fit(neva, theirs, last)
        kept = read_marker(last).get("kept", {})
        check_same_run(recipe, last, theirs, saved_lora(last), kept)
        return Start(
            neva=neva,
            checkpoint=last,
            # Everything is in the checkpoint; nothing is read from elsewhere before.
            load=_nothing,
            files=files or hf_files(last),
            what=f"step {int(last.name.removeprefix('step-')):,} of {last}",
        )
    path, adapter = recipe.resume.restore_config.path, _given_adapter(recipe)
    if path is None:
        return Start(neva=neva, files=files)
    checkpoint = restored_checkpoint(path)
    neva = _fit(neva, checkpoint_config(checkpoint), checkpoint)
    return Start(
        neva=neva,
        load=lambda stages: load_merged(stages, checkpoint),
        adapter=adapter,
        files=files or hf_files(checkpoint),
        what=str(checkpoint) + (f" with the adapters of {adapter}" if adapter else ""),
    )


def run_folder(recipe: Recipe) -> Path:
    """Where a run writes."""
    return Path(recipe.log.dir) / recipe.log.name


def restored_checkpoint(path: str) -> Path:
    """The checkpoint of `restore_config.path`: a folder, an imported model, or a run's last.

    `nemo://owner/name`, as NeMo's recipes have it, means the same as `hf://owner/name`.

    Raises:
        ConfigError: it is not there; the message says how it gets there.
    """
    for prefix in ("hf://", "nemo://"):
        if path.startswith(prefix):
            name = path.removeprefix(prefix)
            folder = cache_folder() / "models" / name
            if not folder.is_dir():
                raise ConfigError(
                    f"resume.restore_config.path={path}: that model was not imported yet; run "
                    f"`neva-prep import hf://{name}` once, or set the path to None to start from "
                    "random weights"
                )
            return folder
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"{path}: no such folder, for a checkpoint or a run (resume.restore_config.path); "
            "correct the path"
        )
    of_run = checkpoints_of(folder)
    return of_run[-1] if of_run else folder


def _given_adapter(recipe: Recipe) -> Path | None:
    restore = recipe.resume.restore_config
    if restore.adapter_path is None:
        return None
    given = f"resume.restore_config.adapter_path={restore.adapter_path}"
    if recipe.peft is None:
        raise ConfigError(f"{given}: the recipe has no adapters; use --peft lora")
    if restore.path is None:
        raise ConfigError(f"{given}: adapters of which model? Give its weights: --from")
    folder = Path(restore.adapter_path).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{given}: no such folder; correct the path")
    return folder


def _given_files(recipe: Recipe) -> Path | None:
    if recipe.processor is None:
        return None
    folder = Path(recipe.processor).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"processor={recipe.processor}: no such folder; correct the path")
    return folder


def _fit(ours: NevaConfig, theirs: NevaConfig, where: Path) -> NevaConfig:
    """Our config with their image token, if the shapes are the same."""
    languages = (
        replace(language, kv_channels=language.head_size)
        for language in (ours.language_transformer_config, theirs.language_transformer_config)
    )
    pairs = [
        tuple(languages),
        (ours.vision_shape, theirs.vision_shape),
        (ours.vision_projection_config, theirs.vision_projection_config),
    ]
    differing = [
        f"{field.name}={getattr(one, field.name)} and there {getattr(other, field.name)}"
        for one, other in pairs
        if one is not None and other is not None
        for field in fields(other)
        if field.name not in _FREE and getattr(one, field.name) != getattr(other, field.name)
    ]
    differing += _other_features(ours, theirs)
    if differing:
        raise ConfigError(
            f"{where}: is of another model than the recipe: {'; '.join(differing)}; use the recipe "
            "that made it, or another folder"
        )
    return replace(ours, image_token_index=theirs.image_token_index)


def _other_features(ours: NevaConfig, theirs: NevaConfig) -> list[str]:
    """Settings by which the projector would read other features than it was trained on."""
    if ours.vision_shape is None or theirs.vision_shape is None:
        return []
    pairs = {
        "drop_vision_class_token": "keeps_class_token",
        "vision_feature_layer": "num_vision_layers",
    }
    return [
        f"{name}={getattr(ours, name)} and there {getattr(theirs, name)}"
        for name, meaning in pairs.items()
        if getattr(ours, meaning) != getattr(theirs, meaning)
    ]


def _nothing(stages: Sequence[Any]) -> None:
    """Leave the weights as they are."""
