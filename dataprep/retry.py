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

from ..errors import ConfigError, NevaPrepError
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
from .files import TEMPORARY_SUFFIX
from .journal import Journal, is_begun
from .options import ConvertOptions
from .plan import Chosen, Plan, make_plan
from .quarantine import Rejected, read_quarantine, record_bytes
from .report import ConvertReport
from .retry_stage import SOURCE_FILE, may_begin_anew, note_end, stage
from .source import open_source
from .sources import METADATASET_FILE
from .stores.open import moved_images, open_images
from .stores.store import ImageStore
from .watch import Watch

_OF_THE_SOURCE = (
    "format",
    "columns",
    "annotations",
    "reader",
    "limit",
    "layout",
    "sample_index",
    "finish",
)
"""Options that say what the source is, or what the dataset has as a whole."""


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
        images: image folder, where it is another one than before; of a source that holds its
            images, where that lies by now.
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
    options = _options(out, manifest, changes or {})
    with _journal(out, options) as journal:
        if options.resume and not options.dry_run and _is_done(journal, path):
            journal.remove()
            return stored_report(out)
        base, rows = stage(journal, out, path, manifest)
        store = open_images(moved_images(base.source.images, images), journal.work)
        job = Job(
            source=journal.folder / SOURCE_FILE,
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
        note_end(journal)
        finish(out, base, options.dry_run, report, journal, lambda new: _relocated(new, first))
    if not options.dry_run:
        _note_blend(out, base, report, watch)
    report.out, report.dry_run = os.fspath(out), options.dry_run
    return report


def _note_blend(out: Path, base: Manifest, report: ConvertReport, watch: Watch) -> None:
    """Tell of the file that blends this dataset with others as it was before."""
    blend = out.parent / METADATASET_FILE
    if blend.exists() and report.splits != base.report.get("splits"):
        watch.note(
            f"{blend}: blends {out.name} as it was; the convert command that made it, with "
            "--resume, brings splits and repetitions up to date"
        )


def _options(out: Path, manifest: Manifest, changes: Mapping[str, Any]) -> ConvertOptions:
    """Options of the first conversion, with changes.

    Raises:
        ConfigError: one cannot be changed any more.
    """
    known = {**ConvertOptions().deciding(), "finish": False, **manifest.options}
    for name in _OF_THE_SOURCE:
        if changes.get(name, known[name]) != known[name]:
            raise ConfigError(
                f"{out}: is of --{name.replace('_', '-')} {known[name]}, and a dataset has one "
                f"{name}; leave it out, or convert the source again"
            )
    # The limit is one of the source's records, of which the quarantine has but some.
    return ConvertOptions(**{**manifest.options, **changes, "limit": None})


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
        # Without a plan nothing was written that --resume could go on with.
        is_new = may_begin_anew(journal.folder) and not journal.has_plan()
        if not is_begun(journal.folder) or (is_new and not journal.is_overwrite()):
            journal.remove()
        raise
    finally:
        journal.close()


def _is_done(journal: Journal, quarantine: Path) -> bool:
    """Whether a retry that --resume is to finish was finished just before it was stopped."""
    return not is_begun(journal.folder) and not any(
        record_bytes(row) for row in read_quarantine(quarantine)
    )


def _plan(
    journal: Journal,
    base: Manifest,
    rows: list[Rejected],
    images: ImageStore,
    job: Job,
    watch: Watch,
) -> Plan:
    source = open_source(journal.folder / SOURCE_FILE, base.source.form)
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
    warnings = {**stored.warnings, **chosen.warnings}
    # Of records; all else that choosing warns of is the evaluation set's, and is told anew.
    unknown = "filter_unknown"
    if unknown in stored.warnings:
        warnings[unknown] = stored.warnings[unknown] + chosen.warnings.get(unknown, 0)
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
        warnings=warnings,
        warning_examples={**chosen.warning_examples, **stored.warning_examples},
    )


def _relocated(rows: Iterable[Rejected], first: dict[int, Rejected]) -> Iterator[Rejected]:
    """Rows with their place in the source, not in the list of what was tried again."""
    for row in rows:
        old = first.get(row.index, row)
        row.source, row.byte, row.line = old.source, old.byte, old.line
        yield row
