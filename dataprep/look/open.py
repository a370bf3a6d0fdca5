"""The front door: whatever holds conversations, looked at by number."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ...loaders.format import QUARANTINE_FILE
from ...loaders.remote import is_remote
from ...loaders.remote_cache import cached_dataset
from ..folder_kind import holds_source, refuse_blend
from .view import RecordView, SampleView


class Looked(Protocol):
    """Records by their number; any thread may ask."""

    path: Path
    kind: str
    """`source`, `quarantine`, or the name of the sample type, such as `ConversationSample`."""
    images: Path | None
    """Image folder of a source."""
    split: str | None
    """The one that is looked at; None for all."""

    @property
    def splits(self) -> Mapping[str, int]:
        """Split -> its samples; empty for a source."""
        ...

    def __len__(self) -> int:
        """How many records; of a source this reads through the file, once."""
        ...

    def record(self, index: int) -> RecordView:
        """The record as it stands, and what its checks find; never raises for a bad record.

        Raises:
            ConfigError: there is no such record.
            ShardError: the shard or the index cannot be read.
        """
        ...

    def sample(self, index: int) -> SampleView:
        """The conversation and its images.

        Raises:
            NevaPrepError: the record is no valid sample, or there is none.
        """
        ...

    def messages(self, index: int) -> list[dict[str, Any]]:
        """The conversation as `encode_conversation` takes it.

        Raises:
            NevaPrepError: the record has none.
        """
        ...

    def encodable(self, index: int) -> Any:
        """The sample as the task encoder gets it; a FailedSample where it is bad.

        Raises:
            ConfigError: there is no such record.
        """
        ...

    def find(self, *, key: str | None = None, id: str | None = None) -> int:
        """Number of the record with this key or, read through, the first with this id.

        Raises:
            ConfigError: there is none.
        """
        ...

    def quarantined(self) -> Iterator[RecordView]:
        """Records that fail their checks, each with its findings.

        Of a converted dataset, those of its quarantine.jsonl; `open_looked` of that file has them
        by number.
        """
        ...


def open_looked(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    split: str | None = None,
) -> Looked:
    """Open a source, a dataset or a quarantine.

    Args:
        path: a source of any form, a folder or an address where `convert` or `energon prepare` made
            a dataset, or the quarantine.jsonl of a conversion.
        images: folder, zip or tar of a source's images; None to look at its texts alone, unless
            it holds them.
        split: of a dataset, to look at no other.

    Raises:
        ConfigError: the split or the image folder is not there, or cannot be given for this; or
            the folder holds a blend of several datasets.
        RecordError: the file is no list of records.
        ShardError: the dataset is missing or damaged.
        UntrustedDatasetError: the dataset asks for code to be run.
    """
    from .dataset import LookedDataset
    from .quarantined import LookedQuarantine
    from .source import LookedSource

    place = Path(path)
    if is_remote(place):
        return LookedDataset(cached_dataset(place, with_index=True), split=split)
    if not holds_source(place):
        refuse_blend(place)
        return LookedDataset(place, split=split)
    if place.name == QUARANTINE_FILE:
        return LookedQuarantine(place)
    return LookedSource(place, images=None if images is None else Path(images))
