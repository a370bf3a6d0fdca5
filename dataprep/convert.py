"""The front door: a source and its images become a dataset."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from ..errors import ConfigError, RecordError
from ..loaders.format import FORMAT_VERSION, Manifest, SourceEntry, read_manifest
from ..loaders.remote import is_remote
from .commit import commit, shard_entries, write_quarantine
from .engine import run_shards
from .engines.job import Job, Tally
from .journal import Journal
from .options import ConvertOptions
from .plan import Plan
from .prepare import prepare, refuse_missing, source_entry
from .quarantine import Rejected, numbered
from .readers.open import open_any
from .report import ConvertReport, add_rejections, add_results, tell_empty_splits
from .source import Source
from .stores.open import open_images, place_of_images
from .watch import Watch
from .workplace import remove_replaced, workplace


def convert(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    options: ConvertOptions | None = None,
    watch: Watch | None = None,
    *,
    before_removal: Callable[[], None] | None = None,
) -> ConvertReport:
    """Convert a LLaVA JSON array or JSONL file and its images to shards.

    Args:
        source: the file.
        images: what the records' image paths are relative to; None for where the source has them.
        out: folder or address to write; new or empty, unless options say `resume` or `overwrite`.
        options: see ConvertOptions.
        watch: told of the progress.
        before_removal: called before a finished dataset in the folder is removed.

    Returns:
        What happened to every record. One without samples means that no dataset was made.

    Raises:
        ConfigError: options that cannot work, or an output that is not to be touched.
        RecordError: the source as a whole is broken, or too many records were rejected.
        ShardError: the disk refuses; run again with `resume`.
    """
    options, watch = options or ConvertOptions(), watch or Watch()
    if is_remote(out) and not options.dry_run:
        from .spool import convert_elsewhere

        return convert_elsewhere(out, options, watch, lambda *how: convert(source, images, *how))
    if options.spool is not None:
        raise ConfigError("--spool is for an --out elsewhere, such as s3://bucket/folder")
    out = Path(out)
    if options.finish:
        options = replace(options, resume=True)
    times: dict[str, float] = {}
    with workplace(out, options) as journal:
        if journal is None:
            _refuse_another(source, images, out, options)
            return stored_report(out)
        with _timed(times, "plan"):
            ready = prepare(source, images, options, out, journal, watch)
            if journal.is_replacing():
                if before_removal is not None:
                    before_removal()
                remove_replaced(out, journal)
        with _timed(times, "write"):
            if options.finish:
                refuse_missing(ready.plan, journal)
            write_shards(ready.job, ready.plan, journal, watch)
        with _timed(times, "finish"):
            watch.begin("finish", None)
            opened = ready.source
            report = plan_report(opened, ready.plan)
            manifest = _manifest(ready.entry, options)
            finish(out, manifest, options.dry_run, report, journal, lambda r: numbered(r, opened))
    report.out, report.dry_run, report.seconds = os.fspath(out), options.dry_run, times
    return report


def stored_report(out: Path) -> ConvertReport:
    """The report of a finished dataset."""
    report = msgspec.convert(read_manifest(out).report, ConvertReport)
    report.out = os.fspath(out)
    return report


def write_shards(job: Job, plan: Plan, journal: Journal, watch: Watch) -> None:
    """Write the shards of a plan that are not yet there.

    Raises:
        RecordError: more records were rejected than --max-errors lets pass.
        ShardError: the disk refuses, or a worker died.
    """
    pending = [shard for shard in plan.shards if not journal.is_done(shard)]
    total = sum(shard.stop - shard.start for shard in plan.shards)
    done = total - sum(shard.stop - shard.start for shard in pending)
    watch.begin("write", total)

    def tick(tally: Tally) -> None:
        watch.update(done + tally.records, tally.bytes, tally.rejected)
        if tally.shard_ended:
            _check_errors(journal, job.options, plan.records, tally.rejected)

    run_shards(job, pending, tick)
    if job.options.max_errors is not None:
        rejected = sum(result.rejected for result in journal.summaries())
        _check_errors(journal, job.options, plan.records, rejected)


def finish(
    out: Path,
    manifest: Manifest,
    dry_run: bool,
    report: ConvertReport,
    journal: Journal,
    locate: Callable[[Iterable[Rejected]], Iterable[Rejected]],
) -> None:
    """Complete the report, and commit the dataset unless it is a dry run.

    Args:
        out: the dataset.
        manifest: what is known of it before its shards.
        dry_run: whether to write nothing.
        report: completed in place.
        journal: holds the finished shards.
        locate: gives rejected records, in the order of the source, their place in it.
    """
    add_results(report, journal.summaries())
    if report.samples:
        tell_empty_splits(report, manifest.options["split"])
    rows = add_rejections(report, locate(journal.rejected()))
    if dry_run:
        for _ in rows:
            pass
        return
    write_quarantine(out, rows)
    shards = shard_entries(journal)
    commit(out, journal, msgspec.structs.replace(manifest, shards=shards, report=report.counts()))


def plan_report(source: Source, plan: Plan) -> ConvertReport:
    """A report that holds what is known before any shard: what the source has, what is left out."""
    chosen = plan.chosen
    warnings = {
        "byte_order_mark": int(source.has_byte_order_mark),
        "duplicate_id": plan.duplicate_ids,
        "empty_split": len(plan.empty_splits),
        "repeated_image": plan.repeated_images,
        **chosen.warnings,
    }
    examples = {
        "duplicate_id": plan.duplicate_examples,
        "empty_split": plan.empty_splits,
        **chosen.warning_examples,
    }
    return ConvertReport(
        format=source.format,
        format_why=source.why,
        records=plan.records,
        filtered=sum(chosen.filtered.values()),
        filters=chosen.filtered,
        warnings={name: count for name, count in warnings.items() if count},
        warning_examples={name: lines for name, lines in examples.items() if lines},
    )


def _refuse_another(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    out: Path,
    options: ConvertOptions,
) -> None:
    """Refuse to take a finished dataset for the result of another source or other options."""
    # A dataset that is finished has no journal.
    with tempfile.TemporaryDirectory(prefix="neva-prep-") as folder:
        work = Path(folder)
        opened, lying = open_any(Path(source), work, options)
        store = open_images(place_of_images(lying, images), work)
        entry = source_entry(opened, store, opened.fingerprint())
    manifest = read_manifest(out)
    given = {"source": entry, **options.deciding()}
    differing = [
        name
        for name, value in {"source": manifest.source, **manifest.options}.items()
        if given.get(name) != value
    ]
    if differing:
        raise ConfigError(
            f"{out}: holds a finished dataset that was made with another {', '.join(differing)}; "
            "give another --out, or --overwrite"
        )


def _manifest(entry: SourceEntry, options: ConvertOptions) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        source=entry,
        options=options.deciding(),
        shards=[],
        report={},
    )


def _check_errors(journal: Journal, options: ConvertOptions, records: int, rejected: int) -> None:
    limit = options.max_errors
    if limit is None:
        return
    allowed = limit * records if isinstance(limit, float) else limit
    if rejected <= allowed:
        return
    seen = ConvertReport()
    for _ in add_rejections(seen, journal.rejected("*.tar")):
        pass
    if seen.rejected <= allowed:
        # Others are of shards that are not finished yet; those will be told with their reasons.
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in seen.rejections.items())
    first = next(iter(seen.examples.values()))[0]
    said = f"{limit:.3%}" if isinstance(limit, float) else f"{limit:,}"
    raise RecordError(
        f"stopped after {seen.rejected:,} of {records:,} records were rejected, more than "
        f"--max-errors {said}: {reasons}; for example {first}. {_way_out(journal, options)}"
    )


def _way_out(journal: Journal, options: ConvertOptions) -> str:
    """What to do after too many errors: shards that are finished are not looked at again."""
    if options.dry_run:
        return "Correct the source or its images"
    go_on = "Go on with --resume and a larger --max-errors"
    if journal.is_retry():
        return f"{go_on}, or correct rows of the quarantine and go on with --resume"
    return f"{go_on}, or correct the source or its images and begin anew with --overwrite"


@contextmanager
def _timed(times: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        times[stage] = round(time.perf_counter() - start, 3)
