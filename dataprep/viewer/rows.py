"""What the catalogue notes of each sample: read in one go, shard by shard, without any picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ...errors import ImageError, NevaPrepError, RecordError
from ...loaders.format import sample_key
from ...loaders.members import load_member
from ...loaders.shard import ShardReader
from ...loaders.trust import check_dataset
from ..look.dataset import CONVERSATION
from ..look.open import Looked
from ..look.record import check_record, id_of
from ..look.sample import turns_of
from ..look.source import LookedSource, Records
from ..look.view import Turn
from ..readers.open import look_into
from ..stores.find import finder_of

HEAD = 240
"""Characters of a conversation that stand on its card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A sample in the catalogue."""

    n: int
    """Its number in what is looked at."""
    id: str
    """Its key where it has none."""
    split: str
    images: int
    turns: int
    text: str
    """All turns, a line between them."""
    reason: str | None = None
    """Why it is rejected."""
    is_named: bool = True
    """Whether it has an id."""

    @property
    def head(self) -> str:
        """The beginning, for a card."""
        return self.text[:HEAD]


def read_rows(looked: Looked) -> Iterator[Row]:
    """Every sample, in its place."""
    if looked.kind == CONVERSATION:
        return _rows_of_dataset(looked)
    if looked.kind == "source":
        return _rows_of_source(looked)
    return map(lambda index: row_of(looked, index), range(len(looked)))


def image_finder(looked: Looked) -> Callable[[str], None] | None:
    """What raises ImageError for an image that a source lacks; None where rows cannot tell."""
    return finder_of(looked.store) if isinstance(looked, LookedSource) else None


def row_of(looked: Looked, index: int) -> Row:
    """One sample, on its own: slower, and for any kind."""
    try:
        sample = looked.sample(index)
    except NevaPrepError as error:
        record = looked.record(index)
        reason = record.findings[0].reason if record.findings else error.reason
        return Row(
            n=index,
            id=record.id,
            split=record.place.split or "",
            images=0,
            turns=0,
            text=record.text,
            reason=reason or type(error).__name__,
            is_named=record.is_named,
        )
    row = _row(index, sample.id, sample.place.split or "", len(sample.images), sample.turns)
    # Only a source has sound records without an id.
    return replace(row, is_named=looked.kind != "source" or looked.record(index).is_named)


def _rows_of_dataset(looked: Looked) -> Iterator[Row]:
    trusted = check_dataset(looked.path)
    split_of = {shard: name for name, shards in trusted.splits.items() for shard in shards}
    chosen = trusted.shard_samples if looked.split is None else trusted.splits[looked.split]
    reader = ShardReader(looked.path, trusted.shard_samples, frozenset(chosen))
    for index, data in reader.json_members():
        split = split_of.get(reader.shard_of(index), "")
        # What is wrong with a broken one, and its key, takes a closer look.
        yield _row_of_json(index, split, data) or row_of(looked, index)


def _row_of_json(index: int, split: str, data: bytes) -> Row | None:
    record: Any = None
    with suppress(ValueError, RecursionError):
        record = load_member(data)
    if not isinstance(record, dict) or not _is_talk(record.get("conversations")):
        return None
    if not isinstance(record.get("id"), str | int | float):
        return None
    images = record.get("images")
    return _row(
        index,
        str(record["id"]),
        split,
        len(images) if isinstance(images, list) else 0,
        turns_of(record["conversations"]),
    )


def _rows_of_source(looked: Looked) -> Iterator[Row]:
    """Checked as far as text and the presence of images tell; no image is read."""
    records = Records(look_into(looked.path, None)[0])
    read = records.source.reader()
    find = image_finder(looked)
    for index in range(len(records)):
        raw = records[index]
        try:
            record, _ = check_record(raw, None, read)
            reason = None if find is None else _missing(record.images, find)
        except RecordError as error:
            reason = error.reason or type(error).__name__
            yield _rejected(index, raw, reason)
            continue
        turns = tuple(Turn(role=turn.role, text=turn.value) for turn in record.turns)
        name = sample_key(index) if record.id is None else str(record.id)
        row = _row(index, name, "", len(record.images), turns, reason)
        yield replace(row, is_named=record.id is not None)


def _missing(paths: Sequence[str], find: Callable[[str], None]) -> str | None:
    try:
        for path in paths:
            find(path)
    except ImageError as error:
        return error.reason
    return None


def _rejected(index: int, raw: bytes, reason: str) -> Row:
    name = id_of(raw)
    return Row(
        n=index,
        id=sample_key(index) if name is None else name,
        split="",
        images=0,
        turns=0,
        text=raw.decode("utf-8", "backslashreplace"),
        reason=reason,
        is_named=name is not None,
    )


def _is_talk(messages: Any) -> bool:
    return isinstance(messages, list) and all(isinstance(turn, Mapping) for turn in messages)


def _row(
    index: int,
    name: str,
    split: str,
    images: int,
    turns: Sequence[Turn],
    reason: str | None = None,
) -> Row:
    text = "\n".join(turn.text for turn in turns)
    return Row(
        n=index, id=name, split=split, images=images, turns=len(turns), text=text, reason=reason
    )
