"""From a key in a training log back to the record, and to its bytes in the shard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigError, RecordError
from ..loaders.format import MANIFEST_FILE, read_manifest
from .look.open import open_looked

SCHEMA_VERSION = 1


class _LogRow(msgspec.Struct):
    step: int
    keys: list[str] = msgspec.field(name="__keys__")


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


def keys_of_step(log: Path, step: int) -> list[str]:
    """The `__keys__` that a JSONL training log has for a step.

    Raises:
        RecordError: the log cannot be read.
        ConfigError: it has no such step.
    """
    keys: list[str] = []
    decode = msgspec.json.Decoder(_LogRow).decode
    try:
        lines = log.read_bytes().splitlines()
    except OSError as error:
        raise RecordError(f"{log}: cannot be read: {error.strerror}; check the path") from error
    for line in lines:
        try:
            row = decode(line)
        except msgspec.DecodeError:
            continue  # A log has other rows, too.
        if row.step == step:
            keys += row.keys
    if not keys:
        raise ConfigError(
            f"{log}: has no row for step {step} with '__keys__'; log each batch's __keys__, for "
            'example {"step": 12, "__keys__": ["000000042"]}'
        )
    return keys
