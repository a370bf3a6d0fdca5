"""Converting what has been fixed of a quarantine: new shards of the same dataset."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import ConfigError, NevaPrepError, RecordError
from ..loaders.format import (
    JOURNAL_DIR,
    MANIFEST_FILE,
    QUARANTINE_FILE,
    Manifest,
    read_manifest,
)
from ..loaders.remote import is_remote
from .choose import choose, chooses
from .convert import finish, stored_report, write_shards
from .engines.job import Job
from .files import TEMPORARY_SUFFIX, write_file
from .index import indices_in, read_index
from .journal import RETRY_MARKER, Journal, is_begun
from .layouts import NEVA
from .options import ConvertOptions
from .plan import Chosen, Plan, make_plan
from .quarantine import Rejected, read_quarantine, record_bytes
from .report import ConvertReport
from .results import save_rejected, save_result
from .source import open_source
from .stores.open import open_images
from .stores.store import ImageStore
from .watch import Watch

_SOURCE = "retry.jsonl"
_ROWS = "retry-rows.jsonl"
_BASE = "base.json"


def retry(
    quarantine: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    changes: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> ConvertReport:
    """Convert the records of a quarantine that pass by now, and add them to the dataset.

    A record keeps the key that it would have had, and goes to the split it belongs to. Until the
    end the dataset stays as it is.

    Args:
        quarantine: OUT/quarantine.jsonl, a file or an address; its records may have been corrected
            in place.
        images: image folder, where it is another one than before.
        changes: options that differ from those of the first conversion, by name.
        watch: told of the progress.

    Returns:
        The report of the whole dataset, as it is now.

    Raises:
        ConfigError: there is no dataset beside the quarantine, or nothing to retry.
        RecordError: a row of the quarantine cannot be read, or is in the dataset already.
        ShardError: the disk refuses; run again with `resume`.
    """
    watch = watch or Watch()
    if is_remote(quarantine):
        from .retry_elsewhere import retry_elsewhere

        return retry_elsewhere(
            quarantine,
            changes or {},
            watch,
            lambda path, inner, told: retry(path, images=images, changes=inner, watch=told),
        )
    path = Path(quarantine)
    out = path.parent
    if not path.is_file():
        raise ConfigError(
            f"--retry {path}: there is no such file; give the {QUARANTINE_FILE} in the --out "
            "folder of a convert"
        )
    if not (out / MANIFEST_FILE).exists():
        raise ConfigError(
            f"--retry {path}: {out} is no dataset, since it has no {MANIFEST_FILE}; give the "
            f"{QUARANTINE_FILE} in the --out folder of a finished convert"
        )
    manifest = read_manifest(out)
    if not manifest.has_sample_index:
        raise ConfigError(
            f"{out}: was made with --no-sample-index, and --retry needs the index; correct the "
            "source and convert it again"
        )
    layout = manifest.options.get("layout", NEVA)
    if (changes or {}).get("layout", layout) != layout:
        raise ConfigError(
            f"{out}: is of --layout {layout}, and a dataset has one layout; leave it out, or "
            "convert the source again"
        )
    options = ConvertOptions(**{**manifest.options, "limit": None, **(changes or {})})
    with _journal(out, options) as journal:
        if options.resume and not options.dry_run and _is_done(journal, path):
            journal.remove()
            return stored_report(out)
        base, rows = _stage(journal, out, path, manifest)
        store = open_images(os.fspath(images or base.source.images), journal.work)
        job = Job(
            source=journal.folder / _SOURCE,
            source_name=base.source.name,
            form=base.source.form,
            images=store.root,
            options=options,
            out=out,
            journal=journal.folder,
        )
        plan = _plan(journal, base, rows, store, job, watch)
        write_shards(job, plan, journal, watch)
        watch.begin("finish", None)
        report = _report_so_far(base, plan.chosen)
        first = {row.index: row for row in rows}
        finish(out, base, options.dry_run, report, journal, lambda new: _relocated(new, first))
    report.out, report.dry_run = os.fspath(out), options.dry_run
    return report


@contextmanager
def _journal(out: Path, options: ConvertOptions) -> Iterator[Journal]:
    if options.overwrite:
        raise ConfigError(
            "--retry adds to a dataset; --overwrite would remove it: give one of them"
        )
    if options.dry_run:
        with tempfile.TemporaryDirectory(prefix="neva-prep-") as folder:
            yield Journal(Path(folder))
        return
    shutil.rmtree(out / f"{JOURNAL_DIR}{TEMPORARY_SUFFIX}", ignore_errors=True)
    was_there = is_begun(out / JOURNAL_DIR)
    journal = Journal(out / JOURNAL_DIR)
    try:
        if was_there and not journal.is_retry():
            raise ConfigError(
                f"{out}: holds an unfinished conversion; finish it with --resume first"
            )
        if was_there and not options.resume:
            raise ConfigError(
                f"{out}: holds an unfinished --retry; go on with --retry and --resume"
            )
        yield journal
    except NevaPrepError:
        if not is_begun(journal.folder):
            journal.remove()
        raise
    finally:
        journal.close()


def _is_done(journal: Journal, quarantine: Path) -> bool:
    """Whether a retry that --resume is to finish was finished just before it was stopped."""
    return not is_begun(journal.folder) and not any(
        record_bytes(row) for row in read_quarantine(quarantine)
    )


def _stage(
    journal: Journal, out: Path, quarantine: Path, manifest: Manifest
) -> tuple[Manifest, list[Rejected]]:
    """Copy what the retry starts from into the journal, so that it can be continued from there."""
    base_file, rows_file = journal.folder / _BASE, journal.folder / _ROWS
    if base_file.exists():
        base = msgspec.json.decode(base_file.read_bytes(), type=Manifest)
        return base, list(read_quarantine(rows_file))
    # First: rows that are refused leave nothing unfinished behind.
    tried, carried = _sort_out(out, quarantine, manifest)
    journal.clear()
    write_file(journal.folder / RETRY_MARKER, b"")
    write_file(rows_file, b"".join(msgspec.json.encode(row) + b"\n" for row, _ in tried))
    write_file(journal.folder / _SOURCE, b"".join(raw + b"\n" for _, raw in tried))
    save_rejected(journal.folder, "base", carried)
    if manifest.shards:
        for result in read_index(out, manifest.shards):
            save_result(journal.folder, result, [])
    # Last: it says that all the above is there.
    write_file(base_file, msgspec.json.encode(manifest))
    return manifest, [row for row, _ in tried]


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


def _plan(
    journal: Journal,
    base: Manifest,
    rows: list[Rejected],
    images: ImageStore,
    job: Job,
    watch: Watch,
) -> Plan:
    source = open_source(journal.folder / _SOURCE, base.source.form)
    options = job.options
    inputs = {"retry": source.fingerprint(), "images": images.root, **options.deciding()}
    plan = journal.load_plan(inputs)
    if plan is None:
        ordinals = np.array([row.index for row in rows], dtype=np.uint64)
        keep, chosen = None, Chosen()
        if chooses(options):
            keep, chosen = choose(source, job, watch, ordinals)
        watch.begin("plan", None)
        first: dict[str, int] = {}
        for shard in base.shards:
            number = int(shard.name.removesuffix(".tar").rpartition("-")[2])
            first[shard.split] = max(first.get(shard.split, 0), number + 1)
        plan = make_plan(
            source,
            images,
            options,
            journal.rows,
            ordinals=ordinals,
            keep=keep,
            first_number=first,
        )
        plan = replace(plan, chosen=chosen)
        journal.save_plan(plan, inputs)
    return plan


def _report_so_far(base: Manifest, chosen: Chosen) -> ConvertReport:
    """What stays true of the first report; the rest is counted again, over all shards.

    Args:
        base: the dataset as it was.
        chosen: what is left out of the records that are tried again.
    """
    stored = msgspec.convert(base.report, ConvertReport)
    filters = Counter(stored.filters)
    filters.update(chosen.filtered)
    warnings = Counter(stored.warnings)
    warnings.update(chosen.warnings)
    return ConvertReport(
        format=stored.format,
        format_why=stored.format_why,
        records=stored.records,
        filtered=filters.total(),
        filters=dict(filters),
        turns=stored.turns,
        changed_images=stored.changed_images,
        saved_bytes=stored.saved_bytes,
        repairs=stored.repairs,
        warnings=dict(warnings),
        warning_examples=stored.warning_examples,
    )


def _relocated(rows: Iterable[Rejected], first: dict[int, Rejected]) -> Iterator[Rejected]:
    """Rows with their place in the source, not in the list of what was tried again."""
    for row in rows:
        old = first.get(row.index, row)
        row.source, row.byte, row.line = old.source, old.byte, old.line
        yield row
