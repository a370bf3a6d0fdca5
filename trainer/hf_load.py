"""Hugging Face's weights into a model that is built, on each rank its part."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .config import NevaConfig
from .hf_compare import compare_part
from .hf_config import tower_source
from .hf_files import WeightFolder
from .hf_map import Tie, language_ties, projector_ties, vision_ties
from .hf_map_vision import encoder_ties, old_internvit_ties
from .hub import hf_folder
from .vision_config import HFCLIPVisionConfig, VisionConfig

PARTS = ("language_model", "vision_model", "vision_projection")
_DECODER_LAYER = re.compile(r"^language_model\.decoder\.layers\.(\d+)\.")
_WORDS = (
    "language_model.embedding.word_embeddings.weight",
    "language_model.output_layer.weight",
)
_MOST_MISSING = 1024
"""Words that a language model may lack; with more it is likely to be another one."""
_OLD_INTERNVIT = "vision_tower.encoder.layers.0.attn.qkv.weight"


def load_hf_weights(
    model: Any, folder: WeightFolder, *, parts: Iterable[str] = PARTS
) -> frozenset[str]:
    """Fill a model, or some of its parts, from a folder.

    One weight at a time is read and cut: a rank never holds more than its own part and one weight.

    Args:
        model: MCoreNevaModel, any stage of it.
        folder: with the weights of these parts at least.
        parts: which to fill.

    Returns:
        Canonical names of the weights that were read.

    Raises:
        ConfigError: the folder lacks a weight, or has it in another shape.
    """
    wanted = tuple(f"{part}." for part in parts)
    ties = {tie.ours: tie for tie in source_ties(model.neva, folder.names())}
    named = [(n, w) for n, w in model.named_parameters() if n.startswith(wanted)]
    words = model.neva.language_transformer_config.vocab_size
    return fill(((global_name(model, name), weight) for name, weight in named), ties, folder, words)


def load_vision(encoder: Any, shape: VisionConfig, folder: WeightFolder) -> None:
    """Fill a vision encoder by itself, all layers of it.

    Raises:
        ConfigError: the folder lacks a weight, or has it in another shape.
    """
    find = old_internvit_ties if _OLD_INTERNVIT in folder.names() else encoder_ties
    ties = {tie.ours: tie for tie in find(shape, shape.num_layers, "")}
    fill(encoder.named_parameters(), ties, folder)


def load_pretrained(model: Any) -> list[str]:
    """Fill the parts of a model that its config says where to take from.

    Returns:
        Names of the parts that were filled; the others have random weights.

    Raises:
        ConfigError: a folder cannot be had, does not fit, or is of a model that computes otherwise.
    """
    neva: NevaConfig = model.neva
    vision, tower = neva.vision_model_from_pretrained, neva.vision_transformer_config
    if vision is None and isinstance(tower, HFCLIPVisionConfig):
        vision = tower_source(tower)
    sources = {
        "language_model": neva.language_model_from_pretrained,
        "vision_model": vision,
        "vision_projection": neva.vision_projection_from_pretrained,
    }
    filled = []
    for part, source in sources.items():
        if source is not None:
            if getattr(model, part) is not None:
                folder = hf_folder(source)
                compare_part(neva, part, folder)
                load_hf_weights(model, WeightFolder(folder), parts=[part])
            filled.append(part)
    return filled


def source_ties(config: NevaConfig, names: set[str]) -> list[Tie]:
    """All weights of a model, under the names that a folder has."""
    shape = config.vision_shape
    assert shape is not None
    vision = vision_ties(config)
    if _OLD_INTERNVIT in names:
        vision = old_internvit_ties(shape, config.num_vision_layers, "vision_model.")
    return [
        *vision,
        *projector_ties(config),
        *language_ties(config.language_transformer_config),
    ]


def fill(
    named: Iterable[tuple[str, nn.Parameter]],
    ties: dict[str, Tie],
    folder: WeightFolder,
    words: int = 0,
) -> frozenset[str]:
    """Fill weights, given by the names that ties know them by.

    Args:
        named: the weights.
        ties: by the names.
        folder: that has theirs.
        words: of the model's vocabulary; a language model by itself may have fewer.
    """
    read: set[str] = set()
    for name, weight in named:
        if name not in ties:
            raise ConfigError(f"weight {name!r} has none in Hugging Face's model to be filled from")
        tie = ties[name]
        whole = tie.join([_plain(folder.read(theirs), theirs, folder) for theirs in tie.theirs])
        if name in _WORDS:
            whole = _with_more_words(whole, words)
        piece = own_piece(whole, weight, tie.parts)
        if piece.shape != weight.shape:
            raise ConfigError(
                f"{folder.folder}: {', '.join(tie.theirs)} make a weight of {tuple(whole.shape)}, "
                f"and the model's {name} has {tuple(weight.shape)} on this rank; the model's "
                "config is another one's"
            )
        with torch.no_grad():
            weight.copy_(piece)
        read.update(tie.theirs)
    return frozenset(read)


def _plain(weight: Tensor, name: str, folder: WeightFolder) -> Tensor:
    """A weight that is its numbers; those of quantized models mean nothing without their scales."""
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise ConfigError(
            f"{folder.folder}: {name} is quantized ({str(weight.dtype).removeprefix('torch.')}); "
            "use the model as it was before, in float32, float16 or bfloat16"
        )
    return weight


def _with_more_words(whole: Tensor, words: int) -> Tensor:
    """Rows for words that a folder lacks: the mean of those it has.

    LLaVA-1.5 has 64 words more than Llama, the image's among them. A mean is what Hugging Face's
    resize_token_embeddings draws new rows around; rows of zeros would be more probable than most
    words.
    """
    missing = words - len(whole)
    if not 0 < missing <= _MOST_MISSING:
        return whole
    mean = whole.float().mean(0, keepdim=True).to(whole.dtype)
    return torch.cat([whole, mean.expand(missing, -1)])


def own_piece(whole: Tensor, weight: nn.Parameter, parts: int) -> Tensor:
    """What of a whole weight belongs to this tensor rank.

    Args:
        whole: the weight over all ranks.
        weight: this rank's, which says along which dimension it is cut.
        parts: equal parts along it, each of which is cut by itself.
    """
    from megatron.core import parallel_state

    if not getattr(weight, "tensor_model_parallel", False):
        return whole
    size = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    dim: int = weight.partition_dim  # type: ignore[attr-defined]
    return torch.cat([part.chunk(size, dim)[rank] for part in whole.chunk(parts, dim)], dim)


def global_name(model: Any, name: str) -> str:
    """A weight's name with its layer counted over all pipeline stages."""
    found = _DECODER_LAYER.match(name)
    if found is None:
        return name
    layer = model.language_model.decoder.layers[int(found[1])]
    return f"language_model.decoder.layers.{layer.layer_number - 1}.{name[found.end() :]}"
