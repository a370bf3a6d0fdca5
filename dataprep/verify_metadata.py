"""What surrounds the shards, verified: metadata, index as a whole, files, totals, quarantine."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import ShardError
from ..loaders.dataset_kind import read_kind
from ..loaders.format import (
    DATASET_FILE,
    INDEX_FILE,
    INDEX_UUID_FILE,
    INFO_FILE,
    JOURNAL_DIR,
    MANIFEST_FILE,
    QUARANTINE_FILE,
    SPLIT_FILE,
    Manifest,
)
from ..loaders.shard import open_index
from ..loaders.trust import check_split_yaml, read_shard_samples
from .layouts import LAYOUTS, NEVA
from .verify_shard import COPY_AGAIN, REINDEX, Finding, ShardFacts, split_message


def check_metadata(dataset: Path, manifest: Manifest) -> Iterator[Finding]:
    """The files that energon reads, against the manifest."""
    try:
        counts = read_shard_samples(dataset)
    except ShardError as error:
        yield _from_error(dataset, INFO_FILE, error)
    else:
        should = {entry.name: entry.samples for entry in manifest.shards}
        yield from _differences(INFO_FILE, "samples", counts, should)
        if counts.keys() == should.keys() and list(counts) != list(should):
            yield _finding(INFO_FILE, "its shards are not in the order of the index")
    try:
        kind, _ = read_kind(dataset / DATASET_FILE)
    except ShardError as error:
        yield _from_error(dataset, DATASET_FILE, error)
    else:
        layout = str(manifest.options.get("layout", NEVA))
        if layout not in LAYOUTS:
            yield _finding(MANIFEST_FILE, f"says --layout {layout}, which there is not")
        elif LAYOUTS[layout].kind != kind:
            yield _finding(DATASET_FILE, f"describes other samples than those of --layout {layout}")
    try:
        splits, excluded = check_split_yaml(dataset / SPLIT_FILE)
    except ShardError as error:
        yield _from_error(dataset, SPLIT_FILE, error)
    else:
        named = {name: split for split, names in splits.items() for name in names}
        should_be = {entry.name: entry.split for entry in manifest.shards}
        yield from _differences(SPLIT_FILE, "split", named, should_be)
        if excluded:
            yield _finding(
                SPLIT_FILE, f"leaves out {len(excluded)} samples, which convert does not"
            )
    try:
        uuid.UUID((dataset / INDEX_UUID_FILE).read_text("ascii"))
    except (OSError, ValueError) as error:
        yield _finding(INDEX_UUID_FILE, f"is missing or no UUID ({error})")


def _differences(
    file: str, what: str, found: dict[str, Any], should: dict[str, Any]
) -> Iterator[Finding]:
    for name in sorted(found.keys() | should.keys()):
        if name not in should:
            yield _finding(file, f"names {name}, which the manifest does not know")
        elif name not in found:
            yield _finding(file, f"does not name {name}")
        elif found[name] != should[name]:
            yield _finding(
                file, f"says {what} {found[name]!r} of {name}, the manifest says {should[name]!r}"
            )


def check_files(dataset: Path, manifest: Manifest) -> Iterator[Finding]:
    """Shards that are missing, and files that are too many."""
    names = {entry.name for entry in manifest.shards}
    for name in sorted(names):
        if not (dataset / name).is_file():
            yield Finding(
                file=name,
                what="is missing",
                fix=COPY_AGAIN,
            )
    for file in sorted(dataset.iterdir()):
        shard = file.name.removesuffix(".idx")
        if shard.endswith(".tar") and shard not in names:
            yield Finding(
                file=file.name,
                what="is no shard of this dataset, says the manifest",
                fix="remove it if it is a leftover",
            )
        elif file.name.endswith(".tmp") or file.name == JOURNAL_DIR:
            yield Finding(
                file=file.name,
                what="is left over from a conversion that did not finish",
                fix="run the same command with --resume",
            )


def check_index(dataset: Path, manifest: Manifest) -> Iterator[Finding]:
    """What must hold of index.sqlite as a whole; its rows are compared shard by shard."""
    if not manifest.has_sample_index:
        if (dataset / INDEX_FILE).exists():
            yield _finding(INDEX_FILE, "is there, though the manifest says that none was made")
        return
    try:
        with closing(open_index(dataset)) as database:
            # Not quick_check: what is looked up in SQLite's own indexes may differ from the tables.
            rows = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if rows != "ok":
                yield _finding(INDEX_FILE, f"is damaged ({rows})")
                return
            for table in ("samples", "sample_parts"):
                (beyond,) = database.execute(
                    f"SELECT COUNT(*) FROM {table} WHERE tar_file_id NOT BETWEEN 0 AND ?",
                    (len(manifest.shards) - 1,),
                ).fetchone()
                if beyond:
                    yield _finding(INDEX_FILE, f"table {table} has {beyond} rows of no shard")
            (repeated,) = database.execute(
                "SELECT COUNT(*) - COUNT(DISTINCT sample_key) FROM samples"
            ).fetchone()
            if repeated:
                yield _finding(INDEX_FILE, f"{repeated} keys stand for more than one sample")
    except ShardError:
        yield _finding(INDEX_FILE, "is missing")
    except sqlite3.Error as error:
        yield _finding(INDEX_FILE, f"cannot be read ({error})")


def check_totals(manifest: Manifest, facts: list[ShardFacts]) -> Iterator[Finding]:
    """The report in the manifest, against what was counted."""
    if len(facts) < len(manifest.shards):
        return  # A shard is missing, which is reported; its counts cannot be told.
    for name in ("samples", "images", "image_bytes", "turns", "bytes"):
        counted = sum(getattr(fact, name) for fact in facts)
        if manifest.report.get(name, counted) != counted:
            yield _finding(
                MANIFEST_FILE,
                f"its report says {manifest.report[name]} {name}, there are {counted}",
            )


def check_quarantine(dataset: Path, manifest: Manifest) -> Iterator[Finding]:
    """The quarantine's rows, against the manifest's count."""
    file = dataset / QUARANTINE_FILE
    rows = 0
    if file.is_file():
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                rows += 1
                try:
                    json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield _finding(QUARANTINE_FILE, f"line {number} is no valid JSON ({error})")
    rejected = manifest.report.get("rejected", rows)
    if rows != rejected:
        yield _finding(QUARANTINE_FILE, f"has {rows} rows, the manifest says {rejected}")


def _finding(file: str, what: str) -> Finding:
    return Finding(file=file, what=what, fix=REINDEX)


def _from_error(dataset: Path, file: str, error: ShardError) -> Finding:
    what, fix = split_message(error, f"{dataset / file}: ")
    return Finding(file=file, what=what, fix=fix)
