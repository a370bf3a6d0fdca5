"""A dataset in shards: one that convert wrote, or that `energon prepare` made of typed samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, NevaPrepError, RecordError
from ...loaders.dataset_kind import check_typed_dataset
from ...loaders.format import QUARANTINE_FILE
from ...loaders.members import JSON_MEMBER, SampleRecord, read_record
from ...loaders.shard import ShardReader, Stored
from .record import id_of, view_record
from .sample import SHOWN_FIELDS, turns_of, view_image
from .view import Finding, Place, RecordView, SampleView

if TYPE_CHECKING:
    from .typed import TypedReader

CONVERSATION = "ConversationSample"


class LookedDataset:
    """The samples of a dataset, or of one of its splits."""

    images: Path | None = None

    def __init__(self, path: Path, *, split: str | None = None) -> None:
        """Read the metadata; see `open_looked`."""
        self.path = path
        self.split = split
        self._trusted, self._kind = check_typed_dataset(path)
        splits = self._trusted.splits
        if split is not None and split not in splits:
            raise ConfigError(f"{path}: has no split {split!r}; it has {', '.join(splits)}")
        self._split_of = {shard: name for name, shards in splits.items() for shard in shards}
        samples = self._trusted.shard_samples
        chosen = samples if split is None else splits[split]
        self._reader = ShardReader(path, samples, frozenset(chosen))
        self.kind = self._kind.sample_type or CONVERSATION

    @property
    def splits(self) -> dict[str, int]:
        """Split -> its samples."""
        counts = self._trusted.shard_samples
        return {
            split: sum(counts[shard] for shard in shards)
            for split, shards in self._trusted.splits.items()
        }

    def __len__(self) -> int:
        return len(self._reader)

    def record(self, index: int) -> RecordView:
        """The JSON of a sample, and whether its members fit together."""
        stored = self._reader.read(index)
        if self._typed is not None:
            raw, error = self._typed.record(stored)
        else:
            raw, error = stored.members.get(JSON_MEMBER, b""), _fault(stored)
        view = view_record(raw, self._place(stored), key=stored.key, error=error)
        if f"{stored.shard}/{stored.key}" not in self._trusted.excluded_samples:
            return view
        left_out = Finding(reason="excluded", message="split.yaml leaves this sample out")
        return replace(view, findings=(*view.findings, left_out))

    def sample(self, index: int) -> SampleView:
        """The conversation and the images of a sample."""
        stored = self._reader.read(index)
        if self._typed is not None:
            return self._typed.sample(stored, self._place(stored))
        record = _read(stored)
        return SampleView(
            place=self._place(stored),
            id=record.id,
            key=stored.key,
            turns=turns_of(record.messages),
            images=tuple(
                view_image(
                    stored.members[entry.name],
                    name=entry.name,
                    source=entry.source,
                    offset=stored.offsets[entry.name],
                )
                for entry in record.images
            ),
            fields={k: v for k, v in record.record.items() if k not in SHOWN_FIELDS},
        )

    def messages(self, index: int) -> list[dict[str, Any]]:
        """The conversation of a sample; of a typed one, as its encoder puts it."""
        stored = self._reader.read(index)
        return self._typed.messages(stored) if self._typed else _read(stored).messages

    def encodable(self, index: int) -> Any:
        """The sample as energon's reader gives it to the task encoder."""
        from .typed import load_sample

        return load_sample(self._factory, self._reader.read(index))

    def find(self, *, key: str | None = None, id: str | None = None) -> int:
        """Number of the sample with a key, or the first with an id."""
        if key is not None:
            # Keys that convert gave have leading zeros, which may be left out.
            found = (self._reader.find_key(name) for name in (key, key.zfill(9)))
            for index in found:
                if index is not None:
                    return index
            self._refuse_rejected(f"key {key!r}", key=key)
            raise ConfigError(
                f"{self.path}: has no sample with key {key!r}; neva-prep inspect "
                f"{quote(str(self.path))} shows the key of the first"
            )
        for number, data in self._reader.json_members():
            if id_of(data) == id:
                return number
        self._refuse_rejected(f"id {id!r}", id=id)
        raise ConfigError(f"{self.path}: has no record with id {id!r}; look at the source's ids")

    def quarantined(self) -> Iterator[RecordView]:
        """Records that convert rejected."""
        from .quarantined import LookedQuarantine

        file = self.path / QUARANTINE_FILE
        if not file.exists() or not file.stat().st_size:
            return iter(())
        return LookedQuarantine(file).quarantined()

    def _refuse_rejected(self, what: str, *, key: str | None = None, id: str | None = None) -> None:
        """Tell of a record that is not here since convert rejected it.

        Raises:
            ConfigError: it did.
        """
        from .quarantined import LookedQuarantine

        file = self.path / QUARANTINE_FILE
        if not file.exists() or not file.stat().st_size:
            return
        rejected = LookedQuarantine(file)
        try:
            number = rejected.find(key=key, id=id)
        except NevaPrepError:
            return
        reason = rejected.record(number).findings[0].reason
        raise ConfigError(
            f"{self.path}: the record with {what} was rejected ({reason}); neva-prep inspect "
            f"{quote(str(file))} --index {number} shows why"
        )

    @cached_property
    def _factory(self) -> Any:
        from .typed import open_factory

        return open_factory(self._trusted, self._kind)

    @cached_property
    def _typed(self) -> TypedReader | None:
        """Reads samples of energon's types; None for conversations, which need no energon."""
        if self._kind.sample_type is None:
            return None
        from .typed import TypedReader

        return TypedReader(self._factory)

    def _place(self, stored: Stored) -> Place:
        return Place(
            dataset=self.path.name,
            index=stored.index,
            shard=stored.shard,
            split=self._split_of.get(stored.shard),
            offset=stored.offset,
            num_bytes=stored.num_bytes,
        )


def _read(stored: Stored) -> SampleRecord:
    others = [name for name in stored.members if name != JSON_MEMBER]
    return read_record(stored.key, stored.members.get(JSON_MEMBER, b""), others)


def _fault(stored: Stored) -> NevaPrepError | None:
    """What the members are checked for when they are read, then each image's header."""
    try:
        record = _read(stored)
    except RecordError as error:
        return error
    shown = (
        view_image(stored.members[entry.name], name=entry.name, source=entry.source)
        for entry in record.images
    )
    found = next(chain((image.error for image in shown if image.error), (None,)))
    return None if found is None else RecordError(f"sample {stored.key}: image {found}")
