"""The same as plain data, for `--json`: texts as the dataset has them, no pixels."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from .view import BatchView, RecordView, SampleView, TokensView

SCHEMA_VERSION = 1
"""Raised when a key changes its meaning or goes."""


def describe(
    record: RecordView, sample: SampleView | None, tokens: TokensView | None = None
) -> dict[str, Any]:
    """A record with what became of it.

    Args:
        record: as it stands.
        sample: None where the record is broken; its findings say why.
        tokens: None without a tokenizer.
    """
    place = record.place
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "index": place.index,
        "key": record.key,
        "id": record.id if sample is None else sample.id,
        "dataset": place.dataset,
        "split": place.split,
        "shard": place.shard,
        "line": place.line,
        "offset": place.offset,
        "bytes": place.num_bytes,
        "images": [] if sample is None else [_image(image) for image in sample.images],
        "record": _parsed(record.text),
        "findings": plain(record.findings),
    }
    if tokens is not None:
        found["tokens"] = {**plain(tokens), "num_trained": tokens.num_trained}
    return found


def describe_batch(batch: BatchView) -> dict[str, Any]:
    """A batch with every number of it."""
    return {"schema_version": SCHEMA_VERSION, **plain(batch)}


def plain(value: Any) -> Any:
    """A view as JSON has it; a picture is its height and width."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, np.ndarray):
        return list(value.shape[:2])
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return None if isinstance(value, bytes) else value


def _image(image: Any) -> dict[str, Any]:
    found = plain(image)
    del found["data"]
    found["bytes"] = found.pop("num_bytes")
    return dict(found)


def _parsed(text: str) -> Any:
    """The record itself; its text where that is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
