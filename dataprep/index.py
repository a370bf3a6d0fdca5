"""The index that energon needs beside the tars: the same that `energon prepare` would make.

Written by ourselves, since importing energon costs seconds. Source of the layout: energon 7.4.1.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, count, islice, pairwise
from pathlib import Path

import yaml

from ..errors import ShardError
from ..loaders.format import (
    ENERGON_VERSION,
    INDEX_FILE,
    INDEX_UUID_FILE,
    INFO_FILE,
    META_DIR,
    SPLIT_FILE,
    ShardEntry,
    sample_key,
)
from .files import publish, temporary, told, write_file
from .layouts import write_layout
from .shard import ShardResult

_TABLES = (
    "CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, "
    "sample_index INTEGER NOT NULL, byte_offset INTEGER, byte_size INTEGER)",
    "CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, "
    "content_byte_offset INTEGER, content_byte_size INTEGER)",
)
_INDEXES = (
    "CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index)",
    "CREATE INDEX idx_sample_parts_seq ON sample_parts"
    "(tar_file_id, sample_index, content_byte_offset)",
    "CREATE INDEX idx_sample_parts_full ON sample_parts"
    "(tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size)",
)
_ROWS_AT_ONCE = 64


def write_index(out: Path, results: Iterable[ShardResult]) -> None:
    """Write index.sqlite.

    Args:
        out: the dataset.
        results: every shard that has samples, sorted by name.

    Raises:
        ShardError: the disk refuses.
    """
    path = out / INDEX_FILE
    with told(path):
        path.parent.mkdir(exist_ok=True)
        temporary(path).unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(temporary(path), isolation_level=None)) as database:
                _fill(database, results)
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        fd = os.open(temporary(path), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        publish(path)


def _fill(database: sqlite3.Connection, results: Iterable[ShardResult]) -> None:
    # The file has a temporary name until it is whole and synced: no rollback journal is needed.
    for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
        database.execute(f"PRAGMA {setting}")
    for table in _TABLES:
        database.execute(table)
    database.execute("BEGIN")
    for number, result in enumerate(results):
        starts = result.starts
        sizes = (stop - start for start, stop in pairwise(starts))
        samples = zip(result.keys, count(), starts, sizes, strict=False)
        _insert(database, "samples", number, samples)
        _insert(database, "sample_parts", number, result.parts)
    for index in _INDEXES:
        database.execute(index)
    database.execute("COMMIT")


def _insert(
    database: sqlite3.Connection, table: str, number: int, rows: Iterable[tuple[object, ...]]
) -> None:
    """Add rows of four values, each behind the number of its tar.

    Several with one statement: that takes half the time of one by one.
    """
    row, values = f"({number:d}, ?, ?, ?, ?)", chain.from_iterable(rows)
    while some := tuple(islice(values, 4 * _ROWS_AT_ONCE)):
        places = ", ".join([row] * (len(some) // 4))
        database.execute(f"INSERT INTO {table} VALUES {places}", some)


def write_metadata(out: Path, shards: list[ShardEntry], layout: str) -> None:
    """Write split.yaml, dataset.yaml and index.uuid; the commit marker comes later.

    Raises:
        ShardError: the disk refuses.
    """
    with told(out):
        (out / META_DIR).mkdir(exist_ok=True)
    splits: dict[str, list[str]] = {}
    for shard in shards:
        splits.setdefault(shard.split, []).append(shard.name)
    parts = {name: collapse(names) for name, names in splits.items()}
    config = {"split_parts": parts, "exclude": []}
    write_file(out / SPLIT_FILE, yaml.safe_dump(config, sort_keys=False).encode())
    write_layout(out, layout)
    # energon draws it at random; ours follows from the content, so that equal data has equal bytes.
    content = "".join(f"{shard.name}:{shard.xxh3_128};" for shard in shards)
    write_file(out / INDEX_UUID_FILE, str(uuid.uuid5(uuid.NAMESPACE_OID, content)).encode())


def write_commit_marker(out: Path, shards: list[ShardEntry]) -> None:
    """Write .info.json: from here on the dataset is whole.

    Raises:
        ShardError: the disk refuses.
    """
    info = {
        "energon_version": ENERGON_VERSION,
        "shard_counts": {shard.name: shard.samples for shard in shards},
    }
    write_file(out / INFO_FILE, json.dumps(info, indent=2).encode())


def read_index(out: Path, shards: list[ShardEntry]) -> Iterator[ShardResult]:
    """What the index knows of each shard of a finished dataset, for adding shards to it.

    Raises:
        ShardError: the index cannot be read.
    """
    with _opened(out) as database:
        for number, shard in enumerate(shards):
            samples = database.execute(
                "SELECT sample_key, byte_offset, byte_size FROM samples WHERE tar_file_id = ? "
                "ORDER BY sample_index",
                (number,),
            ).fetchall()
            parts = database.execute(
                "SELECT sample_index, part_name, content_byte_offset, content_byte_size "
                "FROM sample_parts WHERE tar_file_id = ? ORDER BY content_byte_offset",
                (number,),
            ).fetchall()
            yield ShardResult(
                name=shard.name,
                split=shard.split,
                records=shard.samples,
                samples=shard.samples,
                images=shard.images,
                bytes=shard.bytes,
                xxh3_128=shard.xxh3_128,
                image_bytes=sum(size for _, name, _, size in parts if name != "json"),
                keys=[key for key, _, _ in samples],
                starts=[*(offset for _, offset, _ in samples), samples[-1][1] + samples[-1][2]],
                parts=parts,
            )


def indices_in(out: Path, ordinals: Iterable[int]) -> Iterator[int]:
    """Those of some source indices whose record is in a dataset.

    Raises:
        ShardError: the index cannot be read.
    """
    with _opened(out) as database:
        for ordinal in ordinals:
            query = "SELECT 1 FROM samples WHERE sample_key = ?"
            if database.execute(query, (sample_key(ordinal),)).fetchone():
                yield ordinal


@contextmanager
def _opened(out: Path) -> Iterator[sqlite3.Connection]:
    """The index of a finished dataset, for reading only."""
    try:
        with closing(sqlite3.connect(f"file:{out / INDEX_FILE}?mode=ro", uri=True)) as database:
            yield database
    except (sqlite3.Error, IndexError) as error:
        raise ShardError(
            f"{out / INDEX_FILE}: cannot be read ({error}); run neva-prep verify"
        ) from error


def collapse(names: list[str]) -> list[str]:
    """Shorten runs of numbered names to brace ranges, as energon writes them.

    Example:
        >>> collapse(["a-000000.tar", "a-000001.tar", "a-000003.tar"])
        ['a-{000000..000001}.tar', 'a-000003.tar']
    """
    runs: list[list[tuple[str, str, str]]] = []
    for name in names:
        stem, _, number = name.removesuffix(".tar").rpartition("-")
        run = runs[-1] if runs else []
        follows = run and run[-1][0] == stem and len(run[-1][1]) == len(number)
        if follows and int(run[-1][1]) + 1 == int(number):
            run.append((stem, number, name))
        else:
            runs.append([(stem, number, name)])
    return [
        run[0][2] if len(run) == 1 else f"{run[0][0]}-{{{run[0][1]}..{run[-1][1]}}}.tar"
        for run in runs
    ]
