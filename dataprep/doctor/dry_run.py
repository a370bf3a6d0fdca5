"""The checks of `convert --dry-run`, run by convert's own code, with every rejected record told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..convert import plan_report, write_shards
from ..journal import Journal
from ..options import ConvertOptions
from ..plan import make_plan
from ..prepare import job_of
from ..quarantine import Rejected, numbered
from ..report import ConvertReport, add_results
from ..source import Source
from ..stores.store import ImageStore
from ..watch import Watch
from ..workplace import workplace


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What convert would do with a source."""

    report: ConvertReport
    """Its rejections are not counted yet: `rejected` tells them."""
    source: Source
    journal: Journal

    def rejected(self) -> Iterator[Rejected]:
        """Every record that would be rejected, in the order of the source; can be read again."""
        return numbered(self.journal.rejected(), self.source)


@contextmanager
def dry_run(
    source: Source, folder: ImageStore, options: ConvertOptions, watch: Watch
) -> Iterator[DryRun]:
    """Check a source as convert does, by the same processes and functions.

    Args:
        source: the source.
        folder: of its images.
        options: with `dry_run`.
        watch: told of the progress.

    Raises:
        RecordError: the source as a whole is broken or holds no record.
    """
    with workplace(Path("dry-run"), options) as journal:
        assert journal is not None
        # Where the indexes of archives go, as in prepare.
        journal.work.mkdir(exist_ok=True)
        watch.begin("plan", None)
        plan = make_plan(
            source,
            folder,
            options,
            journal.rows,
            progress=lambda records: watch.update(records, 0, 0),
        )
        job = job_of(source, folder, options, Path("dry-run"), journal)
        write_shards(job, plan, journal, watch)
        report = plan_report(source, plan)
        add_results(report, journal.summaries())
        yield DryRun(report=report, source=source, journal=journal)
