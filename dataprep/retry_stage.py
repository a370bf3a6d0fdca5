"""What a --retry starts from: copied into its journal, so that it can be continued from there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import xxhash

from ..errors import ConfigError, RecordError
from ..loaders.format import QUARANTINE_FILE, Manifest
from .files import sync_folder, told, write_file
from .index import indices_in, read_index
from .journal import RETRY_MARKER, Journal
from .quarantine import Rejected, read_quarantine, record_bytes
from .report import ConvertReport
from .results import save_rejected, save_result

SOURCE_FILE = "retry.jsonl"
_ROWS_FILE = "retry-rows.jsonl"
_BASE_FILE = "base.json"
_GIVEN_FILE = "given"
"""Hash of the quarantine that the retry began with."""
_END_MARKER = "ending"
"""A file in the journal from where the quarantine may have been replaced by the retry itself."""


def stage(
    journal: Journal, out: Path, quarantine: Path, manifest: Manifest
) -> tuple[Manifest, list[Rejected]]:
    """Copy what the retry starts from into the journal, so that it can be continued from there.

    Where rows were corrected since an unfinished retry began, it begins anew with those.

    Args:
        journal: of the retry.
        out: the dataset.
        quarantine: rows to try.
        manifest: of the dataset.

    Returns:
        The manifest of the dataset as it was, and the rows that are tried.

    Raises:
        ConfigError: there is nothing to retry.
        RecordError: a row cannot be read, or is in the dataset already.
        ShardError: the disk refuses.
    """
    base_file, rows_file = journal.folder / _BASE_FILE, journal.folder / _ROWS_FILE
    given_file = journal.folder / _GIVEN_FILE
    if base_file.exists() and not (
        may_begin_anew(journal.folder) and given_file.read_bytes() != _hash_of(out, quarantine)
    ):
        base = msgspec.json.decode(base_file.read_bytes(), type=Manifest)
        return base, list(read_quarantine(rows_file))
    # First: rows that are refused leave nothing unfinished behind.
    tried, carried = _sort_out(out, quarantine, manifest)
    with told(out):
        base_file.unlink(missing_ok=True)
        sync_folder(journal.folder)
        _remove_unknown_shards(out, manifest)
    journal.clear()
    write_file(journal.folder / RETRY_MARKER, b"")
    write_file(rows_file, b"".join(msgspec.json.encode(row) + b"\n" for row, _ in tried))
    write_file(journal.folder / SOURCE_FILE, b"".join(raw + b"\n" for _, raw in tried))
    save_rejected(journal.folder, "base", carried)
    if manifest.shards:
        for result in read_index(out, manifest.shards):
            save_result(journal.folder, result, [])
    write_file(given_file, _hash_of(out, quarantine))
    # Last: it says that all the above is there.
    write_file(base_file, msgspec.json.encode(manifest))
    return manifest, [row for row, _ in tried]


def note_end(journal: Journal) -> None:
    """Remember that all shards are written: from here on the dataset itself is changed.

    Raises:
        ShardError: the disk refuses.
    """
    write_file(journal.folder / _END_MARKER, b"")


def may_begin_anew(folder: Path) -> bool:
    """Whether a journal's folder is of a retry that has not changed the dataset itself yet."""
    return (folder / RETRY_MARKER).exists() and not (folder / _END_MARKER).exists()


def _hash_of(out: Path, quarantine: Path) -> bytes:
    """Of the rows that are given, and of those that the dataset has."""
    digest = xxhash.xxh3_128()
    for path in (quarantine, out / QUARANTINE_FILE):
        with told(path, "read"):
            digest.update(xxhash.xxh3_128_digest(path.read_bytes()))
    return digest.digest()


def _remove_unknown_shards(out: Path, manifest: Manifest) -> None:
    """Remove the shards that an unfinished retry wrote of rows as they were then."""
    known = {shard.name for shard in manifest.shards}
    for path in out.glob("*.tar*"):
        if path.name.partition(".")[0] + ".tar" not in known:
            path.unlink(missing_ok=True)


def _sort_out(
    out: Path, quarantine: Path, manifest: Manifest
) -> tuple[list[tuple[Rejected, bytes]], list[Rejected]]:
    """Rows to try with the bytes of their record, and rows that stay rejected as they are."""
    report = msgspec.convert(manifest.report, ConvertReport)
    rows = {row.index: row for row in read_quarantine(out / QUARANTINE_FILE)}
    seen: set[int] = set()
    tried, carried = [], []
    for row in read_quarantine(quarantine):
        if row.index in seen:
            raise RecordError(f"{quarantine}: two rows have the index {row.index}; remove one")
        if not 0 <= row.index < report.records:
            raise RecordError(f"{quarantine}: the source had no record {row.index}; remove the row")
        seen.add(row.index)
        raw = record_bytes(row)
        if raw is None:
            carried.append(row)
        else:
            tried.append((row, raw))
    carried += [row for index, row in rows.items() if index not in seen]
    if not tried:
        raise ConfigError(
            f"{quarantine}: holds no record to retry; make one a JSON object under 'record'"
        )
    if manifest.shards:
        _refuse_known(out, quarantine, [row.index for row, _ in tried])
    if (count := len(seen | rows.keys())) != report.rejected:
        raise RecordError(
            f"{quarantine}: has {count:,} rows, but {report.rejected:,} records were rejected; "
            "keep the row of each of them, fixed or not"
        )
    return tried, carried


def _refuse_known(out: Path, quarantine: Path, indices: list[int]) -> None:
    for index in indices_in(out, indices):
        raise RecordError(f"{quarantine}: record {index} is in the dataset already; remove its row")
