"""The records of a dataset: their JSON members, found through the index, and no image byte."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ...errors import RecordError, ShardError
from ...loaders.format import IMAGE_PLACEHOLDER, INDEX_FILE, ImageEntry
from ...loaders.members import JSON_MEMBER, USER_ROLES, read_record
from ...loaders.remote_shard import open_shard, shard_size
from ...loaders.shard import open_index
from ...loaders.turns import Turn
from .item import Item, LeftOut, Picture

TASK_SAMPLES = 4096
SHARD_BITS = 40
"""A place is the shard's number << 40 | the offset in the shard; see lookup.py."""


@dataclass(frozen=True, slots=True)
class DatasetTask:
    """Some samples of a shard, one after another."""

    shard: int
    """Number of the shard in the index."""
    name: str
    start: int
    stop: int
    num_bytes: int
    """Their share of the shard, for the progress bar."""


class _Member(msgspec.Struct):
    id: str | int | float
    conversations: list[Turn]
    images: list[ImageEntry]


_Part = tuple[str, int, int]
"""Of the index: name of a member, offset and size of its content."""
_decode = msgspec.json.Decoder(_Member).decode


def dataset_tasks(
    dataset: Path, shard_samples: dict[str, int], chosen: Collection[str]
) -> Iterator[DatasetTask]:
    """Cut the chosen shards of a dataset into pieces of work, in the order of the index.

    Raises:
        ShardError: a shard is missing.
    """
    for number, (name, samples) in enumerate(shard_samples.items()):
        if name not in chosen or not samples:
            continue
        try:
            size = shard_size(dataset / name)
        except OSError as error:
            raise ShardError(
                f"{dataset / name}: cannot be read ({error.strerror}); run neva-prep verify "
                f"{dataset}"
            ) from error
        for start in range(0, samples, TASK_SAMPLES):
            stop = min(start + TASK_SAMPLES, samples)
            share = size * stop // samples - size * start // samples
            yield DatasetTask(number, name, start, stop, share)


class DatasetReader:
    """Reads samples of a dataset; made in the process that uses it."""

    def __init__(self, dataset: Path, excluded: frozenset[str]) -> None:
        self._dataset = dataset
        self._excluded = excluded
        self._index: sqlite3.Connection | None = None

    def read(self, task: DatasetTask) -> Iterator[Item | LeftOut]:
        """The samples of a task; of each that cannot be read, why.

        Raises:
            ShardError: the index or the shard as a whole cannot be read.
        """
        path = self._dataset / task.name
        keys, parts = self._rows(task)
        try:
            shard, end = open_shard(path), shard_size(path)
        except OSError as error:
            raise ShardError(
                f"{path}: cannot be read ({error.strerror}); run neva-prep verify {self._dataset}"
            ) from error
        with shard:
            for number in range(task.start, task.stop):
                key = keys.get(number) or f"number {number}"
                if self._excluded and f"{task.name}/{key}" in self._excluded:
                    yield LeftOut("excluded", f"{task.name}: sample {key}: is excluded")
                    continue
                try:
                    yield _read_sample(shard, end, task.shard, key, parts.get(number, []))
                except RecordError as error:
                    yield LeftOut(error.reason or "damaged_member", f"{task.name}: {error}")

    def _rows(self, task: DatasetTask) -> tuple[dict[int, str], dict[int, list[_Part]]]:
        """What the index says of a task's samples: their keys, and their members."""
        between = "WHERE tar_file_id=? AND sample_index>=? AND sample_index<?"
        span = (task.shard, task.start, task.stop)
        try:
            if self._index is None:
                self._index = open_index(self._dataset)
            keys = self._index.execute(
                f"SELECT sample_index, sample_key FROM samples {between}", span
            ).fetchall()
            rows = self._index.execute(
                "SELECT sample_index, part_name, content_byte_offset, content_byte_size"
                f" FROM sample_parts {between} ORDER BY sample_index, content_byte_offset",
                span,
            )
            parts: dict[int, list[_Part]] = {}
            for number, name, offset, size in rows:
                if number in parts:
                    parts[number].append((name, offset, size))
                else:
                    parts[number] = [(name, offset, size)]
        except sqlite3.Error as error:
            raise ShardError(
                f"{self._dataset / INDEX_FILE}: cannot be read ({error}); run neva-prep verify "
                f"{self._dataset}"
            ) from error
        return dict(keys), parts


def _read_sample(file: BinaryIO, end: int, shard: int, key: str, parts: list[_Part]) -> Item:
    """One sample of an open shard.

    Args:
        file: the shard.
        end: its size.
        shard: its number.
        key: of the sample.
        parts: its members.

    Raises:
        RecordError: it cannot be read.
    """
    sizes = {name: size for name, _, size in parts}
    if sizes.pop(JSON_MEMBER, None) is None:
        raise RecordError(f"sample {key}: the index has no record of it", reason="not_in_index")
    offset, size = next((offset, size) for name, offset, size in parts if name == JSON_MEMBER)
    data = _read_range(file, end, key, offset, size)
    turns, images = _read_member(key, data, sizes)
    pictures = [
        Picture(image.source, _extension(image.name), image.width, image.height, sizes[image.name])
        for image in images
    ]
    return Item(f"sample {key}", shard << SHARD_BITS | offset, size, turns, pictures)


def _extension(name: str) -> str:
    return name[name.rfind(".") + 1 :]


def _read_member(
    key: str, data: bytes, members: Collection[str]
) -> tuple[list[Turn], Collection[ImageEntry]]:
    """Turns and images of a JSON member that fits the other members of its sample."""
    try:
        found = _decode(data)
        if _is_sound(found, members):
            return found.conversations, found.images
    except (ValueError, RecursionError):
        pass
    # The loaders' own check says what is wrong; it lets some records pass that the fast way does
    # not know, such as those with half a surrogate pair in a field of no interest.
    record = read_record(key, data, members)
    turns = [Turn(role=turn["from"], value=turn["value"]) for turn in record.messages]
    try:
        "".join(turn.role + turn.value for turn in turns).encode()
        "".join(image.source for image in record.images).encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"sample {key}: a text holds half of a surrogate pair", reason="lone_surrogate"
        ) from error
    return turns, record.images


def _is_sound(found: _Member, members: Collection[str]) -> bool:
    """Whether a record fits its images; this runs for every sample, hence the plain loops."""
    asked = 0
    for turn in found.conversations:
        if turn.role in USER_ROLES:
            asked += turn.value.count(IMAGE_PLACEHOLDER)
    names = [image.name for image in found.images]
    if not asked == len(names) == len(members) or not found.conversations:
        return False
    return len(set(names)) == asked and all([name in members for name in names])


def _read_range(file: BinaryIO, end: int, key: str, offset: Any, size: Any) -> bytes:
    """Bytes of a shard; the range comes from an untrusted index."""
    is_range = isinstance(offset, int) and isinstance(size, int) and offset >= 0 and size >= 0
    if not is_range or offset + size > end:
        raise RecordError(
            f"sample {key}: the index points to bytes {offset} to {offset} + {size}, the shard has "
            f"{end}",
            reason="damaged_shard",
        )
    file.seek(offset)
    return file.read(size)
