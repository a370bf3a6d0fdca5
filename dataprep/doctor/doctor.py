"""The front door: a source is recognized, checked as convert checks it, explained and repaired."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import RecordError
from ...loaders.image_folder import ImageFolder
from ...loaders.loose_record import load_json
from ...loaders.spans import Span
from ..options import ConvertOptions
from ..quarantine import Rejected
from ..readers.open import recognize_source
from ..readers.open_json import open_json
from ..sources import Part, read_meta
from ..stores.table_files import is_pattern, table_files
from ..watch import Watch
from .advice import advise
from .container import judge_container, refuse_fix
from .dry_run import DryRun, dry_run
from .edits import EDITS
from .fault import every_image_path, image_paths, is_found
from .file_faults import mend_file
from .find_images import ImageFinder
from .fix import FixWriter, open_fix
from .image_roots import MAX_PATHS, guess_roots
from .repair import Repair, Repairer
from .report import ADVICE_PER_REASON, DoctorReport, Fault, Fixed

_PROGRESS_EVERY = 256


def doctor(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    options: ConvertOptions | None = None,
    *,
    fix: Path | None = None,
    overwrite: bool = False,
    remove_surplus: bool = False,
    watch: Watch | None = None,
) -> DoctorReport:
    """Say what a source is, what is wrong with it and what would repair it.

    Args:
        source: any file or folder.
        images: folder that the records' image paths are relative to; None for where the source has
            them, which of JSON is its folder.
        options: of the conversion that is planned; nothing is converted.
        fix: file for the repaired source; beside it `<fix>.diff` says what changed.
        overwrite: whether both may replace what is there. The source itself is never replaced.
        remove_surplus: whether marks without an image may go, the last ones first.
        watch: told of the progress.

    Returns:
        The report; of a source that cannot be read it says what it is and why.

    Raises:
        ConfigError: no such image folder, or a `fix` that may not be written or is of no JSON.
        ShardError: the disk refuses.
    """
    options = replace(options or ConvertOptions(), dry_run=True, placeholder="reject")
    watch, path = watch or Watch(), Path(source)
    lying = os.fspath(path.parent if images is None else images)
    # Of a pattern, what its first file is.
    first = next(iter(table_files(path).values())) if is_pattern(path) else path
    report = DoctorReport(source=os.fspath(source), images=lying, form=recognize_source(first))
    try:
        if not report.is_json:
            refuse_fix(report, fix)
            judge_container(report, images, options, watch)
            report.ways_out = list(_ways_out(report))
            return report
        if meta := read_meta(path):
            refuse_fix(report, fix)
            report.sources = [os.fspath(part.source) for part in meta]
            report.ways_out = [_look_at(part) for part in meta]
            return report
        folder = ImageFolder(lying)
        if path.is_dir():
            raise RecordError(f"{path}: is a folder; give the file of the conversations")
        opened = open_json(path)
        with ExitStack() as stack:
            # Before the work: what may not be written is told at once.
            writer = stack.enter_context(open_fix(opened, fix, overwrite)) if fix else None
            run = stack.enter_context(dry_run(opened, folder, options, watch))
            report.take_over(run.report)
            finder = _survey(run, report, folder)
            repairer = Repairer(
                read=opened.reader(),
                folder=folder,
                finder=finder,
                options=options,
                remove_surplus=remove_surplus,
            )
            _examine(run, report, repairer, writer, watch)
            if writer is not None:
                report.fixed = writer.finish()
    except RecordError as error:
        report.readable, report.error = False, str(error)
        form = (report.form.way_out,) if report.form.way_out else ()
        report.ways_out = [*mend_file(path, str(error)), *form]
        return report
    if report.fixed is not None:
        read_as = _prove(report.fixed, folder, options, watch)
        if read_as != opened.form:
            report.ways_out = [_as_before(report.fixed.out, read_as, opened.form)]
    report.ways_out += _ways_out(report)
    return report


def _survey(run: DryRun, report: DoctorReport, folder: ImageFolder) -> ImageFinder:
    """Look at all missing images before any path is corrected."""
    missing: list[str] = []
    finder = ImageFinder(folder.root)
    for _, raw in _rejected_records(run):
        record = _record(raw)
        # Only what would be corrected: the rest would no longer count once its record is repaired.
        for path in _missing(image_paths(record), folder):
            finder.note(path)
        if len(missing) < MAX_PATHS:
            missing += _missing(every_image_path(record), folder)
    if missing:
        report.guesses = guess_roots(missing, report.images, run.source.path)
    return finder


def _record(raw: bytes) -> dict[str, Any]:
    try:
        record = load_json(raw)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _missing(paths: Iterable[str], folder: ImageFolder) -> list[str]:
    return [path for path in paths if path.strip() and not is_found(path, folder)]


class _Row(NamedTuple):
    number: int
    span: Span
    rejected: Rejected | None


def _rows(run: DryRun) -> Iterator[_Row]:
    """Every record of the source, with why it would be rejected."""
    rejected = run.rejected()
    waiting = next(rejected, None)
    for index, span in enumerate(run.source.spans()):
        if index >= run.report.records:
            return  # --limit
        if waiting is not None and waiting.index == index:
            yield _Row(index, span, waiting)
            waiting = next(rejected, None)
        else:
            yield _Row(index, span, None)


def _rejected_records(run: DryRun) -> Iterator[tuple[Rejected, bytes]]:
    for _, (offset, length), rejected in _rows(run):
        if rejected is not None:
            yield rejected, run.source.data[offset : offset + length]


def _examine(
    run: DryRun, report: DoctorReport, repairer: Repairer, writer: FixWriter | None, watch: Watch
) -> None:
    watch.begin("check", report.records)
    adds_ids = writer is not None and bool(report.repairs.get("id_added"))
    for index, span, rejected in _rows(run):
        if index % _PROGRESS_EVERY == 0:
            watch.update(index, 0, report.wrong)
        raw = run.source.data[span.offset : span.offset + span.length]
        repair = None
        if rejected is not None:
            repair = repairer.repair(raw)
            _count(report, rejected, repair, repairer)
        if writer is not None and (rejected is not None or adds_ids):
            writer.record(index, span, raw, rejected, repair)
    report.faults.sort(key=lambda fault: (-fault.records, fault.reason))


def _count(report: DoctorReport, rejected: Rejected, repair: Repair, repairer: Repairer) -> None:
    fault = report.count(rejected)
    for other in {found.reason for found in repair.faults} - {rejected.reason}:
        report.behind[other] = report.behind.get(other, 0) + 1
    if repair.is_whole:
        fault.repairable += 1
        report.repairable += 1
        kinds = [change.kind for change in repair.changes]
        report.edits = dict(Counter(report.edits) + Counter(kinds))
        _advise(fault, *(f"--fix: {EDITS[kind]}" for kind in dict.fromkeys(kinds)))
    else:
        last = repair.faults[-1]
        text = advise(last, repair.raw, repairer.folder, repairer.finder)
        behind = f"behind it {last.reason}: " if last.reason != rejected.reason else ""
        _advise(fault, f"{behind}{text}" if text else "")


def _advise(fault: Fault, *texts: str) -> None:
    for text in filter(None, texts):
        if text in fault.advice or len(fault.advice) < ADVICE_PER_REASON:
            fault.advice[text] = fault.advice.get(text, 0) + 1


def _look_at(part: Part) -> str:
    images = "" if part.images is None else f" --images {shlex.quote(part.images)}"
    return f"neva-prep doctor {shlex.quote(os.fspath(part.source))}{images}"


def _ways_out(report: DoctorReport) -> Iterator[str]:
    if report.form.way_out and not report.form.is_read:
        yield report.form.way_out
    for guess in report.guesses:
        yield (
            f"{guess.found:,} of {guess.tried:,} missing images are found with "
            f"--images {guess.images}"
        )
    missing = sum(f.records for f in report.faults if f.reason == "placeholder_missing")
    if missing:
        yield f"convert --placeholder insert puts '<image>' into {missing:,} records"
    if report.repairable and report.fixed is None:
        yield f"--fix OUT.json repairs {report.repairable:,} of {report.wrong:,} records"


def _as_before(out: str, form: str, before: str) -> str:
    return (
        f"{out} is read as {form}, as most of its records are now: "
        f"convert --format {before} reads it as the source was read"
    )


def _prove(fixed: Fixed, folder: ImageFolder, options: ConvertOptions, watch: Watch) -> str:
    """Let convert's own checks judge what was written; the form that it then has."""
    opened = open_json(Path(fixed.out))
    with dry_run(opened, folder, options, watch) as run:
        counts = Counter(row.reason for row in run.rejected())
    fixed.rejections = dict(sorted(counts.items()))
    fixed.left = sum(counts.values())
    return opened.form
