"""Random access: one sample of a dataset, found through index.sqlite and read from its shard."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import msgspec

from ..errors import ConfigError, ShardError
from .format import INDEX_FILE, ImageEntry
from .members import JSON_MEMBER, load_member, read_record
from .trust import read_shard_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image of a stored sample."""

    entry: ImageEntry
    offset: int
    """Where its bytes begin in the shard."""
    data: bytes
    """The image file, as the source had it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """A sample and where it lies."""

    index: int
    """Position in the dataset: shards in the order of their names, samples as in the shard."""
    key: str
    id: str
    shard: str
    """File name of the tar."""
    offset: int
    """Where its first header begins in the shard."""
    bytes: int
    """Its size in the shard, headers and padding included."""
    record: dict[str, Any]
    """The JSON member."""
    messages: list[dict[str, Any]]
    """The conversation as the record has it."""
    images: tuple[StoredImage, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """A row of the index."""

    shard_number: int
    key: str
    number: int
    """Of the sample within its shard."""
    offset: int
    bytes: int


class _IdOnly(msgspec.Struct):
    id: str | int | float | None = None


_decode_id = msgspec.json.Decoder(_IdOnly).decode


def find_sample(
    path: str | os.PathLike[str],
    *,
    index: int | None = None,
    key: str | None = None,
    id: str | None = None,
) -> StoredSample:
    """One sample of a dataset, by one of three names; the first sample where none is given.

    Args:
        path: the dataset.
        index: position in the dataset, from 0.
        key: key of the sample; leading zeros may be left out.
        id: id of its record; the first with it, found by reading through the records.

    Raises:
        ConfigError: more than one name is given, or the dataset has no such sample.
        ShardError: the dataset, its index or the shard is missing or damaged.
        RecordError: what lies there is no valid sample.
    """
    if sum(name is not None for name in (index, key, id)) > 1:
        raise ConfigError("give one of --index, --key and --id, not several")
    dataset = Path(path)
    shards = read_shard_samples(dataset)
    try:
        with closing(open_index(dataset)) as database:
            if key is not None:
                place = _place_by_key(dataset, database, key)
            elif id is not None:
                place = _place_by_id(dataset, list(shards), database, id)
            else:
                place = _place_by_index(dataset, shards, database, index or 0)
            return _read_sample(dataset, shards, database, place)
    except sqlite3.Error as error:
        raise ShardError(
            f"{dataset / INDEX_FILE}: cannot be read ({error}); run neva-prep verify {dataset}"
        ) from error


def open_index(dataset: Path) -> sqlite3.Connection:
    """The dataset's index, for reading only; nothing in it can run a function or write.

    Raises:
        ShardError: there is none.
    """
    file = dataset / INDEX_FILE
    if not file.is_file():
        raise ShardError(f"{file}: is missing; run neva-prep verify {dataset}")
    database = sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro&immutable=1", uri=True)
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _place_by_index(
    dataset: Path, shards: dict[str, int], database: sqlite3.Connection, index: int
) -> _Place:
    total = sum(shards.values())
    if not 0 <= index < total:
        raise ConfigError(f"{dataset}: has no sample {index}; it has {total}, 0 to {total - 1}")
    number = index
    for shard_number, samples in enumerate(shards.values()):
        if number < samples:
            return _one_place(
                dataset, database, "tar_file_id=? AND sample_index=?", shard_number, number
            )
        number -= samples
    raise AssertionError("index lies within the total")


def _place_by_key(dataset: Path, database: sqlite3.Connection, key: str) -> _Place:
    padded = key.zfill(9)
    if not database.execute("SELECT 1 FROM samples WHERE sample_key=?", (padded,)).fetchone():
        raise ConfigError(f"{dataset}: has no sample with key {key!r}; see --index for positions")
    return _one_place(dataset, database, "sample_key=?", padded)


def _place_by_id(
    dataset: Path, shards: list[str], database: sqlite3.Connection, wanted: str
) -> _Place:
    rows = database.execute(
        "SELECT tar_file_id, sample_index, content_byte_offset, content_byte_size"
        " FROM sample_parts WHERE part_name=? ORDER BY tar_file_id, content_byte_offset",
        (JSON_MEMBER,),
    )
    for shard_number, number, data in _read_parts(dataset, shards, rows):
        if _id_of(data) == wanted:
            return _one_place(
                dataset, database, "tar_file_id=? AND sample_index=?", shard_number, number
            )
    raise ConfigError(f"{dataset}: has no record with id {wanted!r}; was it quarantined?")


def _id_of(data: bytes) -> str | None:
    """Id of a record, or None of one that is damaged: verify reports it, others may follow."""
    try:
        return str(_decode_id(data).id)
    except (msgspec.DecodeError, RecursionError):
        with suppress(ValueError, RecursionError):
            return str(load_member(data)["id"])
    return None


def _one_place(
    dataset: Path, database: sqlite3.Connection, condition: str, *values: int | str
) -> _Place:
    row = database.execute(
        "SELECT tar_file_id, sample_key, sample_index, byte_offset, byte_size"
        f" FROM samples WHERE {condition}",
        values,
    ).fetchone()
    if row is None or not _are(int, row[0], row[2], row[3], row[4]) or not _are(str, row[1]):
        raise ShardError(
            f"{dataset / INDEX_FILE}: has no valid row for {values}; run neva-prep verify {dataset}"
        )
    return _Place(*row)


def _read_sample(
    dataset: Path, shards: dict[str, int], database: sqlite3.Connection, place: _Place
) -> StoredSample:
    rows = database.execute(
        "SELECT part_name, content_byte_offset, content_byte_size FROM sample_parts"
        " WHERE tar_file_id=? AND sample_index=?",
        (place.shard_number, place.number),
    ).fetchall()
    names = list(shards)
    if not 0 <= place.shard_number < len(names):
        raise ShardError(
            f"{dataset / INDEX_FILE}: names shard {place.shard_number} of {len(names)}; "
            f"run neva-prep verify {dataset}"
        )
    with _opened(dataset / names[place.shard_number]) as shard:
        parts = {name: (offset, _read_range(shard, offset, size)) for name, offset, size in rows}
    record = read_record(
        place.key,
        parts.get(JSON_MEMBER, (0, b""))[1],
        [name for name in parts if name != JSON_MEMBER],
    )
    return StoredSample(
        index=sum(list(shards.values())[: place.shard_number]) + place.number,
        key=place.key,
        id=record.id,
        shard=names[place.shard_number],
        offset=place.offset,
        bytes=place.bytes,
        record=record.record,
        messages=record.messages,
        images=tuple(
            StoredImage(entry=entry, offset=parts[entry.name][0], data=parts[entry.name][1])
            for entry in record.images
        ),
    )


def _read_parts(
    dataset: Path, shards: list[str], rows: Iterator[tuple[int, int, int, int]]
) -> Iterator[tuple[int, int, bytes]]:
    for shard_number, parts in groupby(rows, key=itemgetter(0)):
        if not _are(int, shard_number) or not 0 <= shard_number < len(shards):
            continue  # verify reports it.
        with _opened(dataset / shards[shard_number]) as shard:
            for _, number, offset, size in parts:
                yield shard_number, number, _read_range(shard, offset, size)


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    try:
        with file.open("rb") as shard:
            yield shard
    except OSError as error:
        raise ShardError(
            f"{file}: cannot be read ({error.strerror}); run neva-prep verify {file.parent}"
        ) from error


def _read_range(shard: BinaryIO, offset: Any, size: Any) -> bytes:
    """Bytes of a shard; the range comes from an untrusted index."""
    end = os.fstat(shard.fileno()).st_size
    if not _are(int, offset, size) or offset < 0 or size < 0 or offset + size > end:
        raise ShardError(
            f"{shard.name}: the index points to bytes {offset} to {offset} + {size}, the shard has "
            f"{end}; run neva-prep verify {Path(shard.name).parent}"
        )
    shard.seek(offset)
    return shard.read(size)


def _are(kind: type, *values: Any) -> bool:
    return all(isinstance(value, kind) for value in values)
