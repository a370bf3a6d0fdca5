"""What comes before the first shard: the source and its images are opened, and the plan is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import ConfigError, RecordError
from ..loaders.format import SourceEntry
from .choose import choose, chooses
from .engines.job import Job
from .journal import Journal
from .options import ConvertOptions
from .plan import Chosen, Plan, make_plan
from .readers.open import open_any
from .source import Source
from .stores.open import open_images, place_of_images
from .stores.store import ImageStore
from .watch import Watch


class Ready(NamedTuple):
    """A conversion whose shards can be written."""

    source: Source
    entry: SourceEntry
    """Of the manifest."""
    job: Job
    plan: Plan


def prepare(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    options: ConvertOptions,
    out: Path,
    journal: Journal,
    watch: Watch,
) -> Ready:
    """Open a source and its images, and plan, unless the journal has the plan.

    Raises:
        ConfigError: the journal is of another conversion.
        RecordError: the source as a whole is broken.
        ShardError: the disk refuses.
    """
    if journal.is_retry():
        raise ConfigError(f"{out}: holds an unfinished --retry; go on with --retry and --resume")
    if options.finish and not journal.has_plan():
        raise ConfigError(f"--finish: no task has planned in {out} yet; run the tasks first")
    opened, lying = open_any(Path(source), journal.work, options)
    store = open_images(place_of_images(lying, images), journal.work)
    if opened.why:
        watch.note(f"{opened.name}: read as {opened.form}; {opened.why}")
    entry = source_entry(opened, store, journal.fingerprint(opened))
    job = job_of(opened, store, options, out, journal)
    return Ready(opened, entry, job, _plan(opened, entry, store, job, journal, watch))


def refuse_missing(plan: Plan, journal: Journal) -> None:
    """Finish nothing while shards are missing.

    Raises:
        ConfigError: some are; the message says which tasks write them.
    """
    missing = [n for n, shard in enumerate(plan.shards) if not journal.is_done(shard)]
    if not missing:
        return
    names = [plan.shards[number].name for number in missing]
    count = journal.task_count()
    tasks = sorted({number % count for number in missing}) if count else []
    again = " or ".join(f"--task {number}/{count}" for number in tasks[:8])
    more = f" ... ({len(tasks)} tasks)" if len(tasks) > 8 else ""
    raise ConfigError(
        f"--finish: {len(names):,} of {len(plan.shards):,} shards are missing: "
        f"{', '.join(names[:8])}{' ...' if len(names) > 8 else ''}; run the same command with "
        + (f"{again}{more}, or with " if again else "")
        + "--resume, which writes them here and finishes"
    )


def source_entry(source: Source, images: ImageStore, fingerprint: str) -> SourceEntry:
    """What the manifest says of a source."""
    return SourceEntry(
        name=source.name,
        format=source.format,
        form=source.form,
        bytes=len(source.data),
        xxh3_128=fingerprint,
        images=images.root,
    )


def job_of(
    source: Source, images: ImageStore, options: ConvertOptions, out: Path, journal: Journal
) -> Job:
    """What a process needs to write shards of a source."""
    return Job(
        source=source.path,
        source_name=source.name,
        form=source.form,
        images=images.root,
        options=options,
        out=out,
        journal=journal.folder,
    )


def _plan(
    source: Source,
    entry: SourceEntry,
    images: ImageStore,
    job: Job,
    journal: Journal,
    watch: Watch,
) -> Plan:
    options = job.options
    inputs: dict[str, Any] = {"source": msgspec.to_builtins(entry), **options.deciding()}
    plan = journal.load_plan(inputs)
    if plan is None:
        keep, chosen = choose(source, job, watch) if chooses(options) else (None, Chosen())
        watch.begin("plan", None)
        plan = make_plan(
            source,
            images,
            options,
            journal.rows,
            keep=keep,
            progress=lambda records: watch.update(records, 0, 0),
        )
        if plan.images and journal.is_replacing() and not any(map(images.size, _paths(source))):
            # Their place is likely a wrong one, and all records would be rejected.
            raise ConfigError(
                f"{job.out}: not one of the {plan.images:,} images of {source.name} is in "
                f"{images.root}; the dataset that is there stays: correct --images, or give "
                "another --out"
            )
        plan = replace(plan, chosen=chosen)
        journal.save_plan(plan, inputs)
    return plan


def _paths(source: Source) -> Iterator[str]:
    """Of all images, one after the other."""
    read = source.reader()
    for offset, length in source.spans():
        with suppress(RecordError):
            yield from read(source.data[offset : offset + length]).record.images
