"""Adapters from PEFT's format into our layers.

Several of their layers are one of ours (adapter.py). Where their A are the same, so is ours. Where
they differ, ours is all of them one below the other, and B has each one's rows at its own A and
zeros elsewhere: exact, and the rank is the sum of theirs.

    q: A1 B1    v: A2 B2        A = A1    B = B1 .    rows of q
                                    A2        . .     rows of k, not adapted
                                              . B2    rows of v
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .adapter import BEFORE, CONFIG_NAME, WEIGHTS_NAME
from .config import NevaConfig
from .hf_files import canonical
from .hf_load import global_name, own_piece
from .hf_map import Tie, model_ties
from .hf_map_vision import encoder_ties
from .lora import layers_of

_UNSUPPORTED = {
    "use_dora": "DoRA",
    "fan_in_fan_out": "transposed weights",
    "trainable_token_indices": "trained tokens",
    "layer_replication": "repeated layers",
    "alora_invocation_tokens": "tokens that switch it on",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "a choice among adapters",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
_KEEPS_WEIGHTS = ("gaussian", "eva", "orthogonal")
"""Ways in which adapters begin; the others, as PiSSA, take what they begin as from the weights."""
_BEHIND_FEATURES = ("vision_tower.post_layernorm.", "vision_tower.head.")
_LORA = re.compile(r"(.+)\.lora_(A|B)\.weight")


@dataclass(frozen=True, slots=True)
class _Theirs:
    """An adapter, of one of their layers or of several."""

    a: Tensor
    """[dim, in]"""
    b: Tensor
    """[out, dim]"""
    scale: float


def read_adapter(chunks: Sequence[Any], folder: Path) -> list[str]:
    """Fill adapters with those of a folder, each rank its pieces; what is trained stays as it is.

    A layer whose adapter has more rows than the folder's does the same as theirs, and has rows to
    spare; one that the folder does not adapt begins as if new.

    Args:
        chunks: MCoreNevaModel with adapters.
        folder: of PEFT's format.

    Returns:
        Names of this rank's layers that have one there, layers counted over all stages.

    Raises:
        ConfigError: the folder is none of PEFT's, adapts layers that the model has not, or has more
            than plain LoRA and `modules_to_save`, or parts that no layer here can take; or a layer
            has no adapter here, or one of too few rows.
    """
    settings = _read_settings(folder)
    adapters, beside = _read_weights(folder, settings)
    ties = {tie.ours: tie for tie in model_ties(chunks[0].neva)}
    _check_names(folder, set(adapters) | set(beside), chunks[0].neva)
    taken = {name for chunk in chunks for name in _fill_beside(chunk, ties, beside)}
    filled = []
    for name, layer in layers_of(chunks):
        tie = ties.get(f"{name}.weight")
        if tie is not None and any(theirs in adapters for theirs in tie.theirs):
            _fill(layer, name, _join(tie, adapters, layer.output_size), folder)
            filled.append(name)
            taken.update(theirs for theirs in tie.theirs if theirs in adapters)
    known = {theirs for tie in ties.values() for theirs in tie.theirs}
    _check_taken(folder, (set(adapters) | set(beside)) & known, taken)
    return filled


def _fill(layer: Any, name: str, adapter: _Theirs, folder: Path) -> None:
    if getattr(layer, "lora_a", None) is None:
        raise ConfigError(
            f"{folder}: has an adapter of {name}, and the recipe gives that layer none; add "
            f"{name.rpartition('.')[2]} to peft.target_modules"
        )
    rows, dim = len(adapter.a), len(layer.lora_a)
    if rows > dim:
        raise ConfigError(
            f"{folder}: its adapter of {name} takes {rows} rows, and the recipe's have {dim}; set "
            f"peft.dim={rows}, or more"
        )
    # Spare rows of A stay as they were drawn; those of B are 0.
    a = F.pad(adapter.a, (0, 0, 0, dim - rows))
    b = F.pad(adapter.b * (adapter.scale / layer.lora_scale), (0, dim - rows))
    with torch.no_grad():
        layer.lora_a[:rows] = own_piece(a, layer.lora_a, 1)[:rows]
        layer.lora_b.copy_(own_piece(b, layer.lora_b, layer.lora_parts))


def _check_names(folder: Path, names: set[str], neva: NevaConfig) -> None:
    """Refuse what the model has not; layers behind the features may be named, to no effect."""
    shape = neva.vision_shape
    assert shape is not None
    ties = [*model_ties(neva), *encoder_ties(shape, shape.num_layers, "")]
    known = {theirs for tie in ties for theirs in tie.theirs}
    unknown = [n for n in sorted(names - known) if not n.startswith(_BEHIND_FEATURES)]
    if unknown:
        raise ConfigError(
            f"{folder}: changes {unknown[0].removesuffix('.weight')}, and the model has no such "
            "layer; the adapter belongs to another model"
        )


def _check_taken(folder: Path, given: set[str], taken: set[str]) -> None:
    """Refuse what no rank has a place for: a dropped part would make another model."""
    gathered: list[set[str]] = [set()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, taken)
    left = sorted(given.difference(*gathered))
    if left:
        raise ConfigError(
            f"{folder}: changes {left[0].removesuffix('.weight')}, and the layers here cannot take "
            f"that alone ({len(left)} such weights); merge the adapter into its model with PEFT, "
            "and import that"
        )


def _join(tie: Tie, adapters: dict[str, _Theirs], out: int) -> _Theirs:
    """One adapter that does what theirs do; see the top of this file."""
    found = [adapters.get(theirs) for theirs in tie.theirs]
    present = [one for one in found if one is not None]
    first = present[0]
    same = len(present) == len(found) and all(torch.equal(one.a, first.a) for one in present)
    a = first.a if same else torch.cat([one.a for one in present])
    blocks, column = [], 0
    for one, rows in zip(found, tie.split(torch.empty(out, 1)), strict=True):
        block = torch.zeros(len(rows), len(a), dtype=first.b.dtype)
        if one is not None:
            width = len(one.a)
            block[:, column : column + width] = one.b * (one.scale / first.scale)
            column += 0 if same else width
        blocks.append(block)
    return _Theirs(a, tie.join(blocks), first.scale)


def _fill_beside(chunk: Any, ties: dict[str, Tie], beside: dict[str, Tensor]) -> Iterator[str]:
    """Fill weights that the folder has whole; gives the folder's names of them."""
    for name, weight in chunk.named_parameters():
        tie = ties.get(global_name(chunk, name))
        if tie is not None and all(theirs in beside for theirs in tie.theirs):
            whole = tie.join([beside[theirs] for theirs in tie.theirs])
            with torch.no_grad():
                weight.copy_(own_piece(whole, weight, tie.parts))
            yield from tie.theirs


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    try:
        settings = json.loads(path.read_text())
        kind = settings["peft_type"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: is no adapter of PEFT ({error})") from error
    more = [what for name, what in _UNSUPPORTED.items() if settings.get(name)]
    if settings.get("bias", "none") != "none":
        more.append("biases")
    start = settings.get("init_lora_weights", True)
    if not isinstance(start, bool) and start not in _KEEPS_WEIGHTS:
        more.append(f"changes to the model's own weights (init_lora_weights={start!r})")
    if kind != "LORA" or more:
        raise ConfigError(
            f"{path}: has {', '.join(more) or kind}, and only plain LoRA can be read; merge the "
            "adapter into its model with PEFT, and import that"
        )
    made: dict[str, Any] = {"rank_pattern": {}, "alpha_pattern": {}}
    return made | {name: value for name, value in settings.items() if value is not None}


def _read_weights(
    folder: Path, settings: dict[str, Any]
) -> tuple[dict[str, _Theirs], dict[str, Tensor]]:
    """Adapters and other weights, by the canonical names of the weights that they change."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS_NAME
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; fetch it again") from error
    halves: dict[str, dict[str, Tensor]] = {}
    beside: dict[str, Tensor] = {}
    for stored, tensor in tensors.items():
        name = stored.removeprefix(BEFORE)
        match = _LORA.fullmatch(name)
        if match is None:
            beside[canonical(name)] = tensor
        else:
            halves.setdefault(match[1], {})[match[2]] = tensor
    torn = [name for name, pair in halves.items() if len(pair) < 2]
    if torn:
        raise ConfigError(f"{path}: {torn[0]} has one of lora_A and lora_B; fetch it again")
    adapters = {
        canonical(f"{name}.weight"): _Theirs(pair["A"], pair["B"], _scale(name, pair, settings))
        for name, pair in halves.items()
    }
    return adapters, beside


def _scale(name: str, pair: dict[str, Tensor], settings: dict[str, Any]) -> float:
    """How often an adapter counts; PEFT's patterns are ends of names."""
    alpha = settings["lora_alpha"]
    for pattern, other in settings["alpha_pattern"].items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            alpha = other
            break
    rank = len(pair["A"])
    return float(alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))
