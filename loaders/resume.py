"""Saved places: a stream's state as plain data, with what must be the same when it is loaded.

The state holds numbers, texts, lists, maps and tensors alone, so `torch.load(weights_only=True)`
reads it, and loading one can run no code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import megatron.energon.rng
import megatron.energon.savable_loader
import numpy as np
import torch
from megatron.energon.flavors.webdataset import sample_loader
from megatron.energon.state import FlexState

from ..errors import ConfigError
from .blend import Blend
from .ranks import DataParallel
from .stream_dataset import ReadConfig

STATE_VERSION = 1

_STATES = {
    state.__name__: state
    for state in (
        megatron.energon.rng.SystemRngState,
        megatron.energon.savable_loader.SavableDataLoaderState,
        megatron.energon.savable_loader.SavableDatasetCheckpoint,
        megatron.energon.savable_loader.SavableDatasetState,
        sample_loader.SliceState,
    )
}
"""energon's classes that a state may hold."""
_KIND = "__energon__"


def to_plain(value: Any) -> Any:
    """Energon's state objects as maps, tuples and arrays as marked maps; the rest as it is."""
    if isinstance(value, FlexState):
        return {_KIND: "FlexState", "items": {key: to_plain(item) for key, item in value.items()}}
    if dataclasses.is_dataclass(value) and type(value).__name__ in _STATES:
        fields = {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {_KIND: type(value).__name__, "items": fields}
    if isinstance(value, tuple):
        return {_KIND: "tuple", "items": [to_plain(item) for item in value]}
    if isinstance(value, np.ndarray):
        return {_KIND: "array", "dtype": str(value.dtype), "items": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.Tensor):
        return value
    raise AssertionError(f"energon's state holds a {type(value).__name__}, unknown to resume.py")


def from_plain(value: Any) -> Any:
    """What `to_plain` was given.

    Raises:
        ConfigError: it is not what `to_plain` gave.
    """
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: from_plain(item) for key, item in value.items()}
    items = value["items"]
    if kind == "tuple":
        return tuple(from_plain(item) for item in items)
    if kind == "array":
        return np.array(items, dtype=value["dtype"])
    fields = {key: from_plain(item) for key, item in items.items()}
    if kind == "FlexState":
        return FlexState(fields)
    if kind not in _STATES:
        raise ConfigError(f"the state holds a {kind!r}, which no state of ours does")
    return _STATES[kind](**fields)


def fingerprint(
    blend: Blend,
    config: ReadConfig,
    ranks: DataParallel,
    *,
    global_batch_size: int,
    tokenizer: Any,
    encoder: Mapping[str, Any],
) -> dict[str, Any]:
    """All that decides which samples come next and what is made of them, as plain data.

    Paths are no part of it: a dataset may have moved.
    """
    return {
        "data_parallel_rank": ranks.rank,
        "data_parallel_size": ranks.size,
        "num_workers": config.num_workers,
        "micro_batch_size": config.micro_batch_size,
        "global_batch_size": global_batch_size,
        "shuffle_buffer_size": config.shuffle_buffer_size,
        "packing_buffer_size": config.packing_buffer_size,
        "seed": config.seed,
        "dataset": {
            "mode": blend.mode,
            "parts": [part.fingerprint() for part in blend.parts],
        },
        "tokenizer": _tokenizer_fingerprint(tokenizer),
        "encoder": dict(encoder),
    }


def check_fingerprint(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than the state was saved with.

    Raises:
        ConfigError: the message lists what differs, saved and now.
    """
    differences = list(_differences("", saved, now))
    if differences:
        raise ConfigError(
            "the state was saved with other settings, so the stream cannot go on exactly: "
            + "; ".join(differences[:8])
            + ("; …" if len(differences) > 8 else "")
            + ". Use the saved settings, or begin without this state"
        )


def check_version(state: Mapping[str, Any]) -> None:
    """Refuse what is no state of this version with a ConfigError."""
    version = state.get("version") if isinstance(state, Mapping) else None
    if version != STATE_VERSION:
        raise ConfigError(
            f"this is no loader state of version {STATE_VERSION}, its version is {version!r}; give "
            "what state_dict() returned"
        )


def _differences(where: str, saved: Any, now: Any) -> list[str]:
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        return [
            difference
            for key in sorted({*saved, *now})
            for difference in _differences(
                f"{where}.{key}".lstrip("."), saved.get(key), now.get(key)
            )
        ]
    if isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        return [
            difference
            for number, pair in enumerate(zip(saved, now, strict=True))
            for difference in _differences(f"{where}[{number}]", *pair)
        ]
    return [] if saved == now else [f"{where}: saved {_short(saved)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}…"


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of what the tokenizer makes of its words and of a text; empty where there is none."""
    if tokenizer is None:
        return ""
    owner = getattr(tokenizer, "tokenizer", tokenizer)
    words = sorted(owner.get_vocab().items(), key=lambda word: (word[1], word[0]))
    specials = [str(text) for text in owner.all_special_tokens]
    probe = list(owner.encode("A probe: 12 über 一只猫\n  end."))
    described = json.dumps([words, specials, probe, getattr(owner, "chat_template", None)])
    return hashlib.sha256(described.encode("utf-8", "surrogatepass")).hexdigest()
