"""Random access: the members of samples by number or key, read through index.sqlite.

Nothing in them is judged here; the index is a stranger's, and its ranges are checked.
"""

from __future__ import annotations

import sqlite3
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import ConfigError, ShardError
from .format import INDEX_FILE, read_manifest
from .members import JSON_MEMBER
from .remote_shard import open_shard, shard_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A sample as it lies in a shard."""

    index: int
    key: str
    shard: str
    offset: int
    num_bytes: int
    members: dict[str, bytes]
    """What follows the key in the name -> the file."""
    offsets: dict[str, int]
    """Of the members in the shard."""


class ShardReader:
    """Samples of some shards of a dataset, in their order; any thread may read.

    Memory holds no sample: a read is three look-ups in the index and one place in a shard.
    """

    def __init__(
        self, dataset: Path, shard_samples: Mapping[str, int], chosen: frozenset[str]
    ) -> None:
        """Take what the metadata says.

        Args:
            dataset: the folder.
            shard_samples: number of samples of all shards, in the order of the index.
            chosen: shards to read; the others' samples have no number here.
        """
        self.dataset = dataset
        self._shards = [
            (number, name, samples)
            for number, (name, samples) in enumerate(shard_samples.items())
            if name in chosen
        ]
        self._starts = list(accumulate((samples for *_, samples in self._shards), initial=0))
        self._first_of = {
            number: (start, name)
            for (number, name, _), start in zip(self._shards, self._starts, strict=False)
        }
        self._num_shards = len(shard_samples)
        self._local = threading.local()
        self._rows("SELECT 1 FROM samples LIMIT 1")

    def __len__(self) -> int:
        return self._starts[-1]

    def shard_of(self, index: int) -> str:
        """File name of the tar that holds a sample."""
        return self._locate(index)[1]

    def read(self, index: int) -> Stored:
        """A sample.

        Raises:
            ConfigError: there is no such sample.
            ShardError: the index or the shard is damaged.
        """
        number, name, place = self._locate(index)
        rows = self._rows(
            "SELECT sample_key, byte_offset, byte_size FROM samples"
            " WHERE tar_file_id=? AND sample_index=?",
            number,
            place,
        )
        if not rows or not _fit(rows[0], str, int, int):
            raise self._damaged(f"has no valid row for sample {place} of {name}")
        parts = self._rows(
            "SELECT part_name, content_byte_offset, content_byte_size FROM sample_parts"
            " WHERE tar_file_id=? AND sample_index=? ORDER BY content_byte_offset",
            number,
            place,
        )
        with _Shard(self.dataset / name) as shard:
            members = {str(part): shard.read(offset, size) for part, offset, size in parts}
        return Stored(
            index=index,
            key=rows[0][0],
            shard=name,
            offset=rows[0][1],
            num_bytes=rows[0][2],
            members=members,
            offsets={str(part): offset for part, offset, _ in parts},
        )

    def find_key(self, key: str) -> int | None:
        """Number of the sample with a key; None where there is none among the chosen shards."""
        rows = self._rows("SELECT tar_file_id, sample_index FROM samples WHERE sample_key=?", key)
        if not rows:
            return None
        if not _fit(rows[0], int, int) or not 0 <= rows[0][0] < self._num_shards:
            raise self._damaged(f"names shard {rows[0][0]!r} of {self._num_shards}")
        first = self._first_of.get(rows[0][0])
        return None if first is None else first[0] + int(rows[0][1])

    def json_members(self) -> Iterator[tuple[int, bytes]]:
        """Number and JSON member of every sample that has one, shard by shard."""
        for number, name, _ in self._shards:
            rows = self._rows(
                "SELECT sample_index, content_byte_offset, content_byte_size FROM sample_parts"
                " WHERE tar_file_id=? AND part_name=? ORDER BY content_byte_offset",
                number,
                JSON_MEMBER,
            )
            with _Shard(self.dataset / name) as shard:
                for place, offset, size in rows:
                    yield self._first_of[number][0] + int(place), shard.read(offset, size)

    def _locate(self, index: int) -> tuple[int, str, int]:
        if not 0 <= index < len(self):
            raise ConfigError(
                f"{self.dataset}: has no sample {index}; it has {len(self)}, 0 to {len(self) - 1}"
            )
        at = bisect_right(self._starts, index) - 1
        number, name, _ = self._shards[at]
        return number, name, index - self._starts[at]

    def _rows(self, query: str, *values: int | str) -> list[Any]:
        try:
            database = getattr(self._local, "database", None)
            if database is None:
                # A connection belongs to the thread that opened it.
                database = self._local.database = open_index(self.dataset)
            return list(database.execute(query, values).fetchall())
        except sqlite3.Error as error:
            raise self._damaged(f"cannot be read ({error})") from error

    def _damaged(self, finding: str) -> ShardError:
        return ShardError(
            f"{self.dataset / INDEX_FILE}: {finding}; run neva-prep verify {self.dataset}"
        )


def open_index(dataset: Path) -> sqlite3.Connection:
    """The dataset's index, for reading only; nothing in it can run a function or write.

    Raises:
        ShardError: there is none.
    """
    file = dataset / INDEX_FILE
    if not file.is_file():
        if not read_manifest(dataset).has_sample_index:
            raise ShardError(
                f"{dataset}: was made with --no-sample-index: its samples can be streamed, not "
                "looked up; convert again without that option to look at them"
            )
        raise ShardError(f"{file}: is missing; run neva-prep verify {dataset}")
    database = sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro&immutable=1", uri=True)
    database.execute("PRAGMA trusted_schema = OFF")
    return database


class _Shard:
    """An open tar, of which ranges are read that an untrusted index names."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Shard:
        try:
            self._file = open_shard(self._path)
            self._size = shard_size(self._path)
        except OSError as error:
            raise self._fault(f"cannot be read ({error.strerror})") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, offset: Any, size: Any) -> bytes:
        if not _fit((offset, size), int, int) or offset < 0 or size < 0:
            raise self._fault(f"the index points to bytes {offset} to {offset} + {size}")
        if offset + size > self._size:
            raise self._fault(
                f"the index points to bytes {offset} to {offset} + {size}, the shard has "
                f"{self._size}"
            )
        self._file.seek(offset)
        return self._file.read(size)

    def _fault(self, finding: str) -> ShardError:
        return ShardError(f"{self._path}: {finding}; run neva-prep verify {self._path.parent}")


def _fit(values: Any, *kinds: type) -> bool:
    return all(isinstance(value, kind) for value, kind in zip(values, kinds, strict=True))
