"""From a key in a training log back to the record, and to its bytes in the shard."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigError, RecordError
from ..loaders.format import MANIFEST_FILE, read_manifest
from ..loaders.remote import is_remote, name_of
from ..loaders.remote_cache import cached_dataset
from .look.open import open_looked

SCHEMA_VERSION = 1


class _LogRow(msgspec.Struct):
    step: int
    keys: list[str] = msgspec.field(name="__keys__")
    origins: str | list[str] = msgspec.field(name="__origins__", default="")


_decode = msgspec.json.Decoder(_LogRow).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKeys:
    """Samples of a step, of one dataset."""

    keys: tuple[str, ...]
    others: Mapping[str, int]
    """Samples of each other dataset of a blend."""


def trace_keys(dataset: str | os.PathLike[str], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Where samples come from.

    Args:
        dataset: what `neva-prep convert` wrote, or energon prepared.
        keys: the `__keys__` of batches.

    Returns:
        For each key: id, shard, byte offset and size in it, the images with their source paths, and
        for a converted dataset the source's file name and the index of the record in it.

    Raises:
        ConfigError: the dataset has no such key.
        ShardError: the dataset cannot be read.
    """
    looked = open_looked(dataset)
    # Of a dataset elsewhere this is the folder that stands for it.
    folder = looked.path
    source = read_manifest(folder).source.name if (folder / MANIFEST_FILE).exists() else None
    rows = []
    for key in keys:
        sample = looked.sample(looked.find(key=key))
        rows.append(
            {
                "key": sample.key,
                "source": source,
                "record": int(sample.key) if source and sample.key.isdigit() else None,
                "id": sample.id,
                "shard": sample.place.shard,
                "offset": sample.place.offset,
                "bytes": sample.place.num_bytes,
                "images": [image.source for image in sample.images],
            }
        )
    return rows


def keys_of_step(log: Path, step: int, dataset: str | os.PathLike[str]) -> StepKeys:
    """The `__keys__` that a JSONL training log has for a step, of one dataset.

    Keys are unique within a dataset alone, so those of a blend are told apart by `__origins__`, the
    batches' datasets; a log without them is of the dataset that is given.

    Raises:
        RecordError: the log cannot be read.
        ConfigError: it has no such step, or no sample of the dataset in it.
    """
    samples = _samples_of_step(log, step)
    if not samples:
        raise ConfigError(
            f"{log}: has no row for step {step} with '__keys__'; log each batch's __keys__, for "
            'example {"step": 12, "__keys__": ["000000042"]}'
        )
    counts = Counter(origin for _, origin in samples)
    own = _own(list(counts), dataset)
    if own is None:
        raise ConfigError(
            f"{log}: step {step} has no sample of {name_of(dataset)}, but of "
            f"{', '.join(sorted(counts))}; trace one of these"
        )
    keys = tuple(key for key, origin in samples if origin == own)
    return StepKeys(keys=keys, others={name: n for name, n in counts.items() if name != own})


def _samples_of_step(log: Path, step: int) -> list[tuple[str, str]]:
    """Keys and their datasets."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError as error:
        raise RecordError(f"{log}: cannot be read: {error.strerror}; check the path") from error
    samples: list[tuple[str, str]] = []
    for line in lines:
        row = _log_row(line)
        if row is not None and row.step == step:
            origins = row.origins
            if isinstance(origins, str):
                origins = [origins] * len(row.keys)
            if len(origins) != len(row.keys):
                raise RecordError(
                    f"{log}: step {step}: has {len(row.keys)} '__keys__' and {len(origins)} "
                    "'__origins__'; log both as a batch has them"
                )
            samples += zip(row.keys, origins, strict=True)
    return samples


def _log_row(line: bytes) -> _LogRow | None:
    """None of a log's other rows."""
    try:
        return _decode(line)
    except msgspec.ValidationError:
        return None
    except msgspec.DecodeError:
        if b"NaN" not in line and b"Infinity" not in line:
            return None
    # Python's own `json.dumps` writes such losses, the very ones that one looks into.
    try:
        return msgspec.convert(json.loads(line), _LogRow)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None


def _own(origins: Sequence[str], dataset: str | os.PathLike[str]) -> str | None:
    """Under which name a log knows a dataset, which may lie elsewhere by now."""
    if origins == [""]:
        return ""
    here = (cached_dataset(dataset) if is_remote(dataset) else Path(dataset)).resolve()
    for name in origins:
        if name and Path(name).resolve() == here:
            return name
    moved = [name for name in origins if name and Path(name).name == here.name]
    return moved[0] if len(moved) == 1 else None
