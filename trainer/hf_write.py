"""A model as a folder that `LlavaForConditionalGeneration.from_pretrained` loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import NevaConfig
from .hf_config import neva_to_hf
from .hf_map import Tie, model_ties
from .hf_map_vision import encoder_ties
from .hf_vision import vision_to_hf
from .vision_config import VisionConfig

UNUSED = "unused.safetensors"
"""Weights of the source that the model has no use for: the vision encoder's last layers."""
_NOT_COPIED = ("config.json", UNUSED)
_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")


def write_hf_folder(
    model: Any, target: Path, *, files: Path | None = None, shard_size_bytes: int = 5 * 10**9
) -> None:
    """Write a model that is whole on this rank.

    Weights that Hugging Face's model has and ours lacks (vision layers behind the features) are
    those of the import, else zeros, which change nothing that the model says.

    Args:
        model: MCoreNevaModel.
        target: folder that is made.
        files: folder with the tokenizer's and the processor's files, and `unused.safetensors`.
        shard_size_bytes: most weights of a file.

    Raises:
        ConfigError: Hugging Face's model cannot express this one.
    """
    settings = neva_to_hf(model.neva)
    target.mkdir(parents=True)
    if files is not None:
        copy_small_files(files, target)
    weights = _all_weights(model, None if files is None else files / UNUSED, settings)
    dtype = _write_shards(weights, target, shard_size_bytes)
    _write_config(settings, target, dtype)


def write_vision_folder(
    encoder: Any, shape: VisionConfig, target: Path, *, files: Path | None = None
) -> None:
    """Write a vision encoder by itself, as a folder of its class in transformers."""
    from transformers import AutoConfig

    settings = vision_to_hf(shape)
    if shape.family == "siglip":
        settings["vision_use_head"] = False
    target.mkdir(parents=True)
    if files is not None:
        copy_small_files(files, target)
    named = {name: weight.detach() for name, weight in encoder.named_parameters()}
    weights = split_weights(named, encoder_ties(shape, shape.num_layers, ""))
    if shape.family != "internvit":
        weights = chain(weights, _post_norm(shape).items())
    _write_shards(((name.removeprefix("vision_tower."), w) for name, w in weights), target)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    (target / "config.json").write_text(config.to_json_string(use_diff=False))


def copy_small_files(source: Path, target: Path) -> None:
    """Copy the tokenizer's and the processor's files of a Hugging Face folder."""
    for pattern in _SMALL_FILES:
        for path in sorted(source.glob(pattern)):
            if path.name not in _NOT_COPIED and not path.name.endswith(".index.json"):
                shutil.copyfile(path, target / path.name)


def stored_name(name: str, family: str) -> str:
    """A canonical name as the hub's LLaVA models spell it, which every transformers reads."""
    if name.startswith("lm_head."):
        return "language_model." + name
    if name.startswith("language_model."):
        return "language_model.model." + name.removeprefix("language_model.")
    if name.startswith("vision_tower.") and family != "internvit":
        return "vision_tower.vision_model." + name.removeprefix("vision_tower.")
    return name


def split_weights(named: dict[str, Tensor], ties: list[Tie]) -> Iterator[tuple[str, Tensor]]:
    """Theirs, under canonical names, one at a time."""
    for tie in ties:
        if tie.ours in named:
            yield from zip(tie.theirs, tie.split(named[tie.ours]), strict=True)


def unused_weights(
    neva: NevaConfig, named: dict[str, Tensor], unused: Path | None
) -> dict[str, Tensor]:
    """What Hugging Face's model has and ours lacks, under canonical names.

    Args:
        neva: the model.
        named: its weights, those of the vision encoder at least.
        unused: the import's `unused.safetensors`; where there is none, layers of zeros are made.
    """
    if unused is None or not unused.is_file():
        return _fillers(neva, named)
    from safetensors.torch import load_file

    return load_file(unused)


def _all_weights(
    model: Any, unused: Path | None, settings: dict[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    neva: NevaConfig = model.neva
    assert neva.vision_shape is not None
    family = neva.vision_shape.family
    named = {name: weight.detach() for name, weight in model.named_parameters()}
    rest = unused_weights(neva, named, unused)
    if family == "siglip":
        settings["vision_config"]["vision_use_head"] = "vision_tower.head.probe" in rest
    for name, tensor in split_weights(named, model_ties(neva)):
        yield stored_name(name, family), tensor
    dtype = next(iter(named.values())).dtype
    for name, tensor in rest.items():
        yield stored_name(name, family), tensor.to(dtype)


def _fillers(neva: NevaConfig, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the vision layers behind the features, shaped as the first layer's."""
    shape = neva.vision_shape
    assert shape is not None
    first = "encoder.layer.0." if shape.family == "internvit" else "encoder.layers.0."
    like = {
        name: tensor
        for name, tensor in split_weights(named, model_ties(neva))
        if first in name and name.startswith("vision_tower.")
    }
    built, every = (
        {name for tie in encoder_ties(shape, count, "") for name in tie.theirs}
        for count in (neva.num_vision_layers, shape.num_layers)
    )
    made = {}
    for name in sorted(every - built):
        number = name.removeprefix("vision_tower.encoder.").split(".")[1]
        made[name] = torch.zeros_like(like[name.replace(f".{number}.", ".0.", 1)])
    return made if shape.family == "internvit" else made | _post_norm(shape)


def _post_norm(shape: VisionConfig) -> dict[str, Tensor]:
    """The norm behind the last layer, which features do not pass."""
    return {
        "vision_tower.post_layernorm.weight": torch.ones(shape.hidden_size),
        "vision_tower.post_layernorm.bias": torch.zeros(shape.hidden_size),
    }


def _write_shards(
    weights: Iterable[tuple[str, Tensor]], folder: Path, shard_size_bytes: int = 5 * 10**9
) -> torch.dtype:
    """Write files as they fill; one file has transformers' plain name, several an index."""
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    total, dtype = 0, torch.float32

    def write(held: dict[str, Tensor]) -> None:
        save_file(held, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(held))

    held: dict[str, Tensor] = {}
    held_bytes = 0
    for name, tensor in weights:
        if held and held_bytes + tensor.nbytes > shard_size_bytes:
            write(held)
            held, held_bytes = {}, 0
        held[name] = tensor.cpu().contiguous()
        held_bytes, total, dtype = held_bytes + tensor.nbytes, total + tensor.nbytes, tensor.dtype
    write(held)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        places = {
            n: name for name, held_names in zip(names, shards, strict=True) for n in held_names
        }
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for number, name in enumerate(names):
        (folder / f"shard-{number}").rename(folder / name)
    return dtype


def _write_config(settings: dict[str, Any], folder: Path, dtype: torch.dtype) -> None:
    """config.json in full, as transformers writes it, with what older ones look for."""
    from transformers import LlavaConfig

    config = LlavaConfig(**{k: v for k, v in settings.items() if k != "model_type"})
    full: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    full |= {
        "architectures": ["LlavaForConditionalGeneration"],
        "dtype": str(dtype).removeprefix("torch."),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    # transformers 4 knows no rope_parameters, and would rotate by its defaults, silently.
    rope = dict(settings["text_config"]["rope_parameters"])
    text = full["text_config"]
    text["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        text["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope["rope_type"] != "default":
        text["rope_scaling"] = rope
    (folder / "config.json").write_text(json.dumps(full, indent=2) + "\n")
