"""The rows of a source or of a converted dataset, in terms in which both can be compared."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import xxhash

from ...errors import ImageError, RecordError, ShardError
from ...loaders.dataset_kind import check_typed_dataset
from ...loaders.format import ImageEntry, sample_key
from ...loaders.members import JSON_MEMBER
from ...loaders.remote import is_remote, name_of
from ...loaders.remote_cache import cached_dataset
from ...loaders.remote_shard import open_shard, shard_size
from ...loaders.shard import ShardReader
from ..folder_kind import holds_source, refuse_blend
from ..image import read_header
from ..look.source import Records
from ..options import PIXEL_LIMIT
from ..readers.open import open_any
from ..readers.record import Turn, load_json
from ..source import Source
from ..stores.open import open_images, place_of_images
from ..stores.store import ImageStore, read_image
from ..tar_reader import BrokenTarError, TarReader

CONVERSATIONS = ("conversations", "messages", "conversation")


class Image(NamedTuple):
    """An image of a row."""

    path: str
    """As the source record gave it."""
    data: bytes | None
    """The file; None where it is missing."""

    @property
    def hash(self) -> bytes:
        """Of the file's bytes; of its path where it is missing."""
        if self.data is None:
            return b"missing" + xxhash.xxh3_128_digest(_bytes(self.path))
        return xxhash.xxh3_128_digest(self.data)

    def describe(self) -> str:
        """What it is, in a few words."""
        if self.data is None:
            return "missing"
        size = f"{len(self.data):,} bytes, {self.hash.hex()[:12]}"
        try:
            header = read_header(self.data, pixel_limit=PIXEL_LIMIT)
        except ImageError as error:
            return f"{error.reason}, {size}"
        return f"{header.width} x {header.height} {header.extension}, {size}"


class Named(IntEnum):
    """How far the id of a row tells which row it is."""

    NOT = 0
    """It has none."""
    BY_CONVERT = 1
    """In a dataset, the key: it may have been given, and says no more than none."""
    AS_KEY = 2
    """In a source, what convert would give: it is known by it, but may also have none."""
    ITSELF = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a source, or a sample of a dataset."""

    index: int
    id: str | None
    split: str | None
    turns: list[Turn]
    images: list[Image]
    fields: dict[str, Any]
    """What else it has, and the paths of its images under `image`."""
    named: Named = Named.ITSELF
    """NOT where it has no id."""


class Side(Protocol):
    """One of the two things that are compared."""

    name: str
    """Its path or address."""
    kind: str
    """`source` or `dataset`."""
    num_bytes: int
    """To be read, for the progress bar."""

    def rows(self) -> Iterator[tuple[Row, int]]:
        """Every row, and the bytes that are read by then."""
        ...

    def row(self, index: int) -> Row:
        """One row again."""
        ...


def open_side(given: str | os.PathLike[str], images: Path | None) -> Side:
    """A source of any form, or the folder or address of a converted dataset.

    Raises:
        RecordError: the source cannot be read.
        ShardError: the folder is no finished dataset.
        ConfigError: no such image folder.
        RemoteError: the service at an address refuses, or cannot be reached.
    """
    if is_remote(given):
        return DatasetSide(cached_dataset(given, with_index=True), name_of(given))
    path = Path(given)
    if not holds_source(path):
        refuse_blend(path)
        return DatasetSide(path, name_of(path))
    # What is mapped stays so when the folder goes.
    with tempfile.TemporaryDirectory(prefix="neva-prep-") as work:
        source, lying = open_any(path, Path(work))
        return SourceSide(path, source, open_images(place_of_images(lying, images), Path(work)))


class SourceSide:
    """Records; 12 bytes of each are held."""

    kind = "source"

    def __init__(self, path: Path, source: Source, images: ImageStore) -> None:
        self.name = str(path)
        self._images = images
        self._records = Records(source)
        self._read = source.reader()
        self._source = source
        self.num_bytes = len(self._source.data)

    def rows(self) -> Iterator[tuple[Row, int]]:
        """Every record."""
        for index, (offset, length) in enumerate(self._source.spans()):
            raw = self._source.data[offset : offset + length]
            yield self._row(index, raw), offset + length

    def row(self, index: int) -> Row:
        """One record again."""
        return self._row(index, self._records[index])

    def _row(self, index: int, raw: bytes) -> Row:
        paths: Sequence[str] = ()
        try:
            raw, record, _ = self._read(raw)
            paths = record.images
        except RecordError:
            # It is compared as it stands.
            pass
        value = _parse(raw)
        if not isinstance(value, dict):
            # Broken or no object: compared as the text that it is.
            text = raw.decode("utf-8", "backslashreplace")
            return Row(index, None, None, [], [], {"record": text})
        given = _take_paths(value)
        images = [Image(str(path), self._data(path)) for path in paths or given]
        return _row(index, sample_key(index), None, value, images, Named.AS_KEY)

    def _data(self, path: str) -> bytes | None:
        try:
            return read_image(self._images, path)
        except ImageError:
            return None


class DatasetSide:
    """A converted dataset."""

    kind = "dataset"

    def __init__(self, path: Path, name: str) -> None:
        trusted, _ = check_typed_dataset(path)
        self.name, self._path = name, path
        self._shards = trusted.shard_samples
        self._split_of = {name: split for split, names in trusted.splits.items() for name in names}
        self._reader = ShardReader(path, trusted.shard_samples, frozenset(trusted.shard_samples))
        self.num_bytes = sum(shard_size(path / shard) for shard in self._shards)

    def rows(self) -> Iterator[tuple[Row, int]]:
        """Every sample, shard by shard."""
        index, done = 0, 0
        for name in self._shards:
            try:
                with open_shard(self._path / name) as file:
                    reader = TarReader(file, shard_size(self._path / name))
                    for sample in reader.samples():
                        members = {member.name: member.data for member in sample}
                        yield self._row(index, sample[0].key, name, members), done + reader.offset
                        index += 1
                    done += reader.size
            except (BrokenTarError, OSError) as error:
                raise ShardError(
                    f"{self.name}/{name}: cannot be read ({error}); run neva-prep verify "
                    f"{self.name}"
                ) from error

    def row(self, index: int) -> Row:
        """One sample again."""
        stored = self._reader.read(index)
        return self._row(index, stored.key, stored.shard, stored.members)

    def _row(self, index: int, key: str, shard: str, members: dict[str, bytes]) -> Row:
        split = self._split_of.get(shard)
        raw = members.get(JSON_MEMBER, b"")
        value = _parse(raw)
        if not isinstance(value, dict):
            text = raw.decode("utf-8", "backslashreplace")
            return Row(index, None, split, [], [], {"record": text})
        try:
            entries = msgspec.convert(value.get("images"), list[ImageEntry])
        except msgspec.ValidationError:
            entries = []
        _take_paths(value)
        if entries:
            value.pop("images", None)
        images = [Image(entry.source, members.get(entry.name)) for entry in entries]
        return _row(index, key, split, value, images, Named.BY_CONVERT)


def pack(value: Any) -> bytes:
    """Bytes that are equal for equal values, whatever the order of fields."""
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (ValueError, TypeError, OverflowError, RecursionError):
        # Half a surrogate pair, say.
        return json.dumps(value, sort_keys=True).encode()


def _row(
    index: int,
    key: str,
    split: str | None,
    value: dict[str, Any],
    images: list[Image],
    as_key: Named,
) -> Row:
    found = value.get("id")
    identity = None
    if isinstance(found, str | int | float) and not isinstance(found, bool):
        identity = str(value.pop("id"))
    elif found is None:
        value.pop("id", None)
    turns: list[Turn] = []
    for name in CONVERSATIONS:
        if isinstance(value.get(name), list):
            said = [_turn(turn) for turn in value.pop(name)]
            turns = [turn for turn, _ in said]
            if any(rest for _, rest in said):
                value[name] = [rest for _, rest in said]
            break
    if images:
        value["image"] = [image.path for image in images]
    named = as_key if identity == key else Named.ITSELF
    named = Named.NOT if identity is None else named
    return Row(index, identity, split, turns, images, value, named)


def _turn(turn: Any) -> tuple[Turn, dict[str, Any]]:
    """A turn, and what it has beside role and text."""
    if not isinstance(turn, dict):
        return Turn(role="", value=_text(turn)), {}
    role, value = (
        next((name for name in names if name in turn), "")
        for names in (("from", "role"), ("value", "content"))
    )
    rest = {name: found for name, found in turn.items() if name not in (role, value)}
    return Turn(role=_text(turn.get(role, "")), value=_text(turn.get(value, ""))), rest


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _take_paths(value: dict[str, Any]) -> list[str]:
    """Take the image paths out of a record."""
    for name in ("image", "images"):
        found = value.get(name)
        paths = [] if found is None else found if isinstance(found, list) else [found]
        if all(isinstance(path, str) for path in paths):
            value.pop(name, None)
            if paths:
                return paths
    return []


def _parse(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        pass
    try:
        return load_json(raw)
    except (ValueError, RecursionError):
        return None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
