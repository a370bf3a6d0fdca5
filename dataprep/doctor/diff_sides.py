"""The two sides of a comparison: the rows of a source, and those of a converted dataset."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from ...errors import ImageError, RecordError, ShardError
from ...loaders.dataset_kind import check_typed_dataset
from ...loaders.format import ImageEntry, sample_key
from ...loaders.members import JSON_MEMBER
from ...loaders.remote import is_remote, name_of
from ...loaders.remote_cache import cached_dataset
from ...loaders.remote_shard import open_shard, shard_size
from ...loaders.shard import ShardReader
from ..folder_kind import holds_source, refuse_blend
from ..layouts import VQA_FIELD, layout_of
from ..look.source import Records
from ..readers.open import open_any
from ..source import Source
from ..stores.open import open_images, place_of_images
from ..stores.store import ImageStore, read_image
from ..tar_reader import BrokenTarError, TarReader
from .diff_row import Image, Named, Row, parse, row_of, take_paths


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
            found = self._read(raw)
            raw, paths = found.content, found.record.images
        except RecordError:
            # It is compared as it stands.
            pass
        value = parse(raw)
        if not isinstance(value, dict):
            # Broken or no object: compared as the text that it is.
            text = raw.decode("utf-8", "backslashreplace")
            return Row(index, None, None, [], [], {"record": text})
        given = take_paths(value)
        images = [Image(str(path), self._data(path)) for path in paths or given]
        return row_of(index, sample_key(index), None, value, images, Named.AS_KEY)

    def _data(self, path: str) -> bytes | None:
        try:
            return read_image(self._images, path)
        except ImageError:
            return None


class DatasetSide:
    """A converted dataset."""

    kind = "dataset"

    def __init__(self, path: Path, name: str) -> None:
        trusted, kind = check_typed_dataset(path)
        # Questions and answers once more: convert put them there.
        self._has_vqa = kind.field_map == layout_of(VQA_FIELD).kind.field_map
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
        value = parse(raw)
        if not isinstance(value, dict):
            text = raw.decode("utf-8", "backslashreplace")
            return Row(index, None, split, [], [], {"record": text})
        try:
            entries = msgspec.convert(value.get("images"), list[ImageEntry])
        except msgspec.ValidationError:
            entries = []
        take_paths(value)
        if entries:
            value.pop("images", None)
        if self._has_vqa:
            value.pop(VQA_FIELD, None)
        images = [Image(entry.source, members.get(entry.name)) for entry in entries]
        return row_of(index, key, split, value, images, Named.BY_CONVERT)
