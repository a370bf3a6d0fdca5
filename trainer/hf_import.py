"""Importing from Hugging Face, and exporting: between their folders and our checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError
from .apart import whole_folder
from .config import NevaConfig
from .config_file import write_config
from .hf_compare import compare, refuse_differing
from .hf_config import neva_from_hf, read_config, read_vision
from .hf_files import WeightFolder
from .hf_write import UNUSED, copy_small_files
from .hub import cache_folder, hf_folder
from .models import NevaModel, VisionModel
from .parallel_config import ComputeConfig
from .vision_config import HFCLIPVisionConfig
from .weights import (
    checkpoint_config,
    config_path,
    hf_files,
    load_weights,
    save_weights,
    weights_folder,
)

Precision = Literal["fp32", "bf16"]


def import_ckpt(
    model: NevaModel | VisionModel | None,
    source: str | Path,
    output_path: str | Path | None = None,
    *,
    overwrite: bool = False,
    precision: Precision | None = None,
) -> Path:
    """Make a checkpoint of a Hugging Face model; of a vision encoder, a folder of its own.

    Args:
        model: what the source should be; None to take it as it is.
        source: `hf://owner/name`, or a folder.
        output_path: where to; in the cache (`NEVA_PREP_CACHE`) unless given.
        overwrite: replace what is there.
        precision: of the checkpoint's weights; float32 for a source in float32, else bfloat16.

    Returns:
        The checkpoint, for `restore_config.path` or `vision_model_from_pretrained`.

    Raises:
        ConfigError: the source cannot be had, or is not the model; or the output is there already,
            or would take the source's place.
    """
    folder = hf_folder(source)
    named = str(source)
    name = named.removeprefix("hf://") if named.startswith("hf://") else folder.resolve().name
    target = Path(output_path or cache_folder() / "models" / name)
    with whole_folder(folder, target, overwrite=overwrite) as part:
        if isinstance(model, VisionModel):
            _import_vision(model, folder, part)
        else:
            _import_neva(model, folder, part, precision)
    return target


def export_ckpt(
    path: str | Path,
    target: str | Path,
    *,
    overwrite: bool = False,
    shard_size_bytes: int = 5 * 10**9,
) -> Path:
    """Write a checkpoint as a folder that `LlavaForConditionalGeneration.from_pretrained` loads.

    Args:
        path: a checkpoint, of any layout over ranks.
        target: the folder.
        overwrite: replace what is there.
        shard_size_bytes: most weights of a file.

    Returns:
        The folder.

    Raises:
        ConfigError: there is no such checkpoint, the folder is there already, or Hugging Face's
            model cannot express this one.
    """
    from .hf_write import write_hf_folder
    from .one_rank import one_rank

    path, target = Path(path), Path(target)
    config = checkpoint_config(path)
    with whole_folder(path, target, overwrite=overwrite) as part, one_rank():
        compute = ComputeConfig(precision=stored_precision(path), initialize=False)
        module = NevaModel(config).build(compute=compute)
        load_weights([module], weights_folder(path))
        write_hf_folder(module, part, files=hf_files(path), shard_size_bytes=shard_size_bytes)
    return target


def _import_neva(
    model: NevaModel | None, folder: Path, part: Path, precision: Precision | None
) -> None:
    from .hf_load import load_hf_weights
    from .one_rank import one_rank

    settings = read_config(folder)
    found = neva_from_hf(settings, str(folder))
    config = found if model is None else _fit(model.config, found, folder)
    weights = WeightFolder(folder)
    precision = precision or _source_precision(settings, weights)
    with one_rank():
        module = NevaModel(config).build(
            compute=ComputeConfig(precision=precision, initialize=False)
        )
        used = load_hf_weights(module, weights)
        if config.language_transformer_config.share_embeddings_and_output_weights:
            used |= _tied_output(weights)
        save_weights([module], weights_folder(part))
    files = hf_files(part)
    files.mkdir(parents=True)
    copy_small_files(folder, files)
    _keep_stops(folder, files)
    _keep_unused(weights, used, files)
    write_config(config, config_path(part))


def _import_vision(model: VisionModel, folder: Path, part: Path) -> None:
    """A folder with transformers' own names, which the model's weights were read into and from."""
    from .hf_load import load_vision
    from .hf_write import write_vision_folder
    from .one_rank import one_rank

    compare(model.config, read_vision(folder), folder)
    with one_rank():
        module = model.build(compute=ComputeConfig(initialize=False))
        load_vision(module, model.config, WeightFolder(folder))
        write_vision_folder(module, model.config, part, files=folder)


def _fit(config: NevaConfig, found: NevaConfig, folder: Path) -> NevaConfig:
    """The model's config, if the folder is that model."""
    theirs, vision = found.vision_transformer_config, config.vision_transformer_config
    assert not isinstance(theirs, HFCLIPVisionConfig)
    if isinstance(vision, HFCLIPVisionConfig):
        vision = replace(vision, shape=vision.shape or theirs)
        config = replace(config, vision_transformer_config=vision)
    compare(config.language_transformer_config, found.language_transformer_config, folder)
    compare(config.vision_shape, theirs, folder)
    _compare_features(config, found, folder)
    return replace(config, image_token_index=found.image_token_index)


def _compare_features(ours: NevaConfig, theirs: NevaConfig, folder: Path) -> None:
    """Refuse a projector without its biases, or one on other features than it was trained on."""
    differing = []
    if ours.keeps_class_token != theirs.keeps_class_token:
        differing.append("drop_vision_class_token")
    if ours.num_vision_layers != theirs.num_vision_layers:
        differing.append("vision_feature_layer")
    named = [f"{n}={getattr(ours, n)} and there {getattr(theirs, n)}" for n in differing]
    bias, their_bias = (
        config.vision_projection_config.add_bias_linear for config in (ours, theirs)
    )
    if bias != their_bias:
        named.append(f"add_bias_linear={bias} and there {their_bias}")
    refuse_differing(named, ours, folder)


def _source_precision(settings: dict[str, Any], weights: WeightFolder) -> Precision:
    """What a folder says it is, or what most of its weights are."""
    stored = settings.get("dtype") or settings.get("torch_dtype")
    if stored is None:
        kinds = weights.kinds()
        stored = max(kinds, key=kinds.__getitem__, default="")
    return "fp32" if str(stored).endswith(("float32", "F32")) else "bf16"


def _tied_output(weights: WeightFolder) -> frozenset[str]:
    """The output layer that a folder with tied embeddings has beside them, which must be they.

    transformers would take one that differs; kept for the export, it would be that of before the
    training.
    """
    import torch

    output, words = "lm_head.weight", "language_model.embed_tokens.weight"
    if output not in weights.names():
        return frozenset()
    if not torch.equal(weights.read(output), weights.read(words)):
        raise ConfigError(
            f"{weights.folder}: tie_word_embeddings=true, and lm_head.weight is not embed_tokens; "
            "set it to false, in config.json and its text_config, to take both"
        )
    return frozenset({output})


def _keep_stops(folder: Path, files: Path) -> None:
    """Keep the tokens that end an answer, so that what is exported stops as its source does.

    transformers takes them from config.json where there is no generation_config.json, and the
    config.json of an export is made of ours, which knows no tokens.
    """
    from transformers import AutoConfig, GenerationConfig

    if not (files / "generation_config.json").exists():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        GenerationConfig.from_model_config(config).save_pretrained(files)


def _keep_unused(weights: WeightFolder, used: frozenset[str], files: Path) -> None:
    """Keep what the model has no use for, so that an export is whole again."""
    from safetensors.torch import save_file

    rest = {name: weights.read(name) for name in sorted(weights.names() - used)}
    if rest:
        save_file(rest, files / UNUSED)


def stored_precision(checkpoint: Path) -> Precision:
    """Of a checkpoint's weights."""
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    metadata = FileSystemReader(weights_folder(checkpoint)).read_metadata()
    kinds = {
        entry.properties.dtype
        for entry in metadata.state_dict_metadata.values()
        if hasattr(entry, "properties")
    }
    return "fp32" if torch.float32 in kinds else "bf16"
