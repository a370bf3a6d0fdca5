"""The end of a conversion: finished shards become a dataset, the commit marker last of all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ..loaders.format import (
    DUPLICATES_FILE,
    INFO_FILE,
    MANIFEST_FILE,
    META_DIR,
    QUARANTINE_FILE,
    Manifest,
    ShardEntry,
)
from .files import TEMPORARY_SUFFIX, publish, sync_folder, temporary, told, write_file
from .index import write_commit_marker, write_index, write_metadata
from .journal import Journal
from .layouts import NEVA
from .quarantine import Rejected


def write_quarantine(out: Path, rows: Iterable[Rejected]) -> None:
    """Write quarantine.jsonl, however long; a dataset that is there stops being whole.

    Raises:
        ShardError: the disk refuses.
    """
    path = out / QUARANTINE_FILE
    with told(path):
        with temporary(path).open("wb") as file:
            file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        _uncommit(out)
        publish(path)


def shard_entries(journal: Journal) -> list[ShardEntry]:
    """The shards that have samples, sorted by name."""
    return [
        ShardEntry(
            name=result.name,
            split=result.split,
            samples=result.samples,
            images=result.images,
            bytes=result.bytes,
            xxh3_128=result.xxh3_128,
        )
        for result in journal.summaries()
        if result.samples
    ]


def commit(out: Path, journal: Journal, manifest: Manifest) -> None:
    """Make a dataset of finished shards. Killed midway it can be called again.

    A conversion whose every record was rejected leaves a manifest and a quarantine, and no dataset.

    Raises:
        ShardError: the disk refuses.
    """
    with told(out):
        _uncommit(out)
        if (pairs := journal.work / DUPLICATES_FILE).exists():
            os.replace(pairs, out / DUPLICATES_FILE)
    if manifest.shards:
        if manifest.has_sample_index:
            write_index(out, (result for result in journal.results() if result.samples))
        write_metadata(out, manifest.shards, manifest.options.get("layout", NEVA))
    pretty = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_file(out / MANIFEST_FILE, pretty + b"\n")
    with told(out):
        for leftover in out.glob(f"*.tar*{TEMPORARY_SUFFIX}"):
            leftover.unlink()
    if manifest.shards:
        write_commit_marker(out, manifest.shards)
    with told(journal.folder):
        journal.remove()


def _uncommit(out: Path) -> None:
    """While files are replaced the dataset is not whole, and loaders must refuse it."""
    if (out / INFO_FILE).exists():
        (out / INFO_FILE).unlink()
        sync_folder(out / META_DIR)
