"""One task of several that write one dataset: its own shards, of a plan that all share.

Tasks run at any time and in any order, on whatever machines see the same files; the first one
plans. When all have ended, `convert` with the option `finish` makes the dataset.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..loaders.format import JOURNAL_DIR
from ..loaders.remote import is_remote
from .convert import write_shards
from .journal import Journal
from .options import ConvertOptions
from .plan import ShardPlan
from .prepare import Ready, prepare
from .watch import Watch
from .workplace import is_finished, make_folder, refuse_foreign

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Which of several tasks."""

    number: int
    """From 0."""
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ConfigError(
                f"--task {self.number}/{self.count}: tasks count from 0 to {self.count - 1}"
            )

    def shards_of(self, shards: list[ShardPlan]) -> list[ShardPlan]:
        """Its part of a plan."""
        return shards[self.number :: self.count]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """What became of a task's shards."""

    out: str
    task: str
    """As given: `3/8`."""
    shards: int
    were_there: int
    """Of the shards: those that an earlier run of the task had finished."""
    records: int
    samples: int
    rejected: int

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def parse_task(text: str) -> Task:
    """The task of `3/8`.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match:
        raise ConfigError(f"--task {text!r}: write K/N, for example 0/8 to 7/8")
    return Task(number=int(match[1]), count=int(match[2]))


def convert_task(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    options: ConvertOptions,
    task: Task,
    watch: Watch | None = None,
) -> TaskReport:
    """Write one task's shards of a conversion; those that are there already are kept.

    Args:
        source: as for `convert`, like the next three the same for all tasks.
        images: see `convert`.
        out: on a file system that all tasks share.
        options: see ConvertOptions.
        task: which.
        watch: told of the progress.

    Raises:
        ConfigError: the options differ from another task's, or the output is not to be touched.
        RecordError: the source is broken as a whole, or too many records were rejected.
        ShardError: the disk refuses, or another conversion that is no task is at work there.
    """
    if options.dry_run or options.overwrite or options.finish:
        raise ConfigError("--task writes its shards; give no --dry-run, --overwrite or --finish")
    if is_remote(out):
        raise ConfigError(f"--out {out}: tasks share a folder; give one, and copy what they make")
    out, watch = Path(out), watch or Watch()
    options = replace(options, resume=True)
    refuse_foreign(out, options)
    if is_finished(out):
        raise ConfigError(f"--out {out}: holds a finished dataset; give another folder")
    make_folder(out)
    journal = Journal(out / JOURNAL_DIR, shared=True)
    try:
        if journal.is_replacing() or journal.is_overwrite():
            raise ConfigError(f"--out {out}: holds an unfinished --overwrite; go on with --resume")
        ready = _planned(source, images, options, out, journal, watch)
        journal.note_tasks(task.count)
        mine = task.shards_of(ready.plan.shards)
        were_there = sum(journal.is_done(shard) for shard in mine)
        write_shards(ready.job, replace(ready.plan, shards=mine), journal, watch)
        results = [journal.summary(shard) for shard in mine]
    finally:
        journal.close()
    return TaskReport(
        out=os.fspath(out),
        task=f"{task.number}/{task.count}",
        shards=len(mine),
        were_there=were_there,
        records=sum(result.records for result in results),
        samples=sum(result.samples for result in results),
        rejected=sum(result.rejected for result in results),
    )


def _planned(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    options: ConvertOptions,
    out: Path,
    journal: Journal,
    watch: Watch,
) -> Ready:
    """The plan, made by this task if it is the first."""
    if journal.has_plan():
        return prepare(source, images, options, out, journal, watch)
    watch.begin("plan", None)
    # Alone: what is made of the source is made once. Who was faster has planned by then.
    journal.hold(shared=False)
    ready = prepare(source, images, options, out, journal, watch)
    journal.hold(shared=True)
    return ready
