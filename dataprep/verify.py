"""`neva-prep verify`: a dataset re-read from end to end, and everything that is off."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ShardError
from ..loaders.format import QUARANTINE_FILE, Manifest, read_manifest
from ..loaders.remote import is_remote, name_of
from .folder_kind import datasets_in, is_blend
from .verify_metadata import (
    check_files,
    check_index,
    check_metadata,
    check_quarantine,
    check_totals,
)
from .verify_remote import VerifyShard, at_hand
from .verify_shard import Finding, ShardFacts, ShardTask

SCHEMA_VERSION = 1
MAX_FINDINGS = 100
Progress = Callable[[int, int], None]
"""Called with the bytes of shards read so far and in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a dataset holds, counted anew, and what is off with it."""

    path: str
    shards: int
    samples: int
    images: int
    turns: int
    bytes: int
    """Of the tars."""
    findings: tuple[Finding, ...]
    """The first ones, at most as many as asked for."""
    found: int
    """How many there are in all."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is off."""
        return self.found == 0

    @property
    def exit_code(self) -> int:
        """0, or 3 where something is off."""
        return 0 if self.is_whole else 3

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        names = ("path", "shards", "samples", "images", "turns", "bytes", "found")
        return {
            "schema_version": SCHEMA_VERSION,
            "is_whole": self.is_whole,
            **{name: getattr(self, name) for name in names},
            "findings": [
                {
                    "file": finding.file,
                    "key": finding.key or None,
                    "offset": finding.offset,
                    "what": finding.what,
                    "fix": finding.fix,
                }
                for finding in self.findings
            ],
        }


def verify(
    path: str | os.PathLike[str],
    *,
    workers: int = 1,
    progress: Progress | None = None,
    max_findings: int = MAX_FINDINGS,
) -> VerifyReport:
    """Re-read everything in a dataset and hold it against its index and its manifest.

    Each shard is read once: its hash, every tar header, every record, every image header. Images
    are decoded only in a shard whose hash has changed, to say which of them is damaged. Of a blend
    every dataset is read that lies in its folder.

    Args:
        path: what `neva-prep convert` wrote: a folder, or an address.
        workers: processes.
        progress: told after each shard.
        max_findings: how many findings to keep; all are counted.

    Raises:
        ConfigError: fewer than one worker.
        ShardError: there is no manifest to compare with, or no sample in the dataset.
        RemoteError: the service of an address refuses or cannot be reached.
    """
    if workers < 1:
        raise ConfigError(f"--workers {workers}: must be 1 or more")
    name = name_of(path)
    if not is_remote(path) and is_blend(Path(path)):
        return _verify_blend(Path(path), workers, progress, max_findings)
    with at_hand(path) as (dataset, verify_one):
        return _verify(name, dataset, verify_one, workers, progress, max_findings)


def _verify_blend(
    folder: Path, workers: int, progress: Progress | None, max_findings: int
) -> VerifyReport:
    """The datasets of a blend one after the other, as one report; the progress is each one's."""
    reports: list[VerifyReport] = []
    findings: list[Finding] = []
    unread = 0
    for dataset in datasets_in(folder):
        name = dataset.relative_to(folder)
        try:
            report = verify(dataset, workers=workers, progress=progress, max_findings=max_findings)
        except ShardError as error:
            unread += 1
            findings.append(Finding(file=str(name), what=str(error), fix="convert it again"))
            continue
        reports.append(report)
        findings += [replace(found, file=str(name / found.file)) for found in report.findings]
    return VerifyReport(
        path=str(folder),
        shards=sum(report.shards for report in reports),
        samples=sum(report.samples for report in reports),
        images=sum(report.images for report in reports),
        turns=sum(report.turns for report in reports),
        bytes=sum(report.bytes for report in reports),
        findings=tuple(findings[:max_findings]),
        found=sum(report.found for report in reports) + unread,
    )


def _verify(
    path: str,
    dataset: Path,
    verify_one: VerifyShard,
    workers: int,
    progress: Progress | None,
    max_findings: int,
) -> VerifyReport:
    manifest = read_manifest(dataset)
    if not manifest.shards:
        raise ShardError(
            f"{path}: holds no samples: every record was rejected; correct what "
            f"{QUARANTINE_FILE} says, then run neva-prep convert --retry"
        )
    findings = [
        *check_metadata(dataset, manifest),
        *check_files(dataset, manifest),
        *(index_findings := list(check_index(dataset, manifest))),
    ]
    tasks = [
        ShardTask(
            dataset=dataset,
            number=number,
            entry=entry,
            has_index=manifest.has_sample_index and not index_findings,
            max_findings=max_findings,
        )
        for number, entry in enumerate(manifest.shards)
        if (dataset / entry.name).is_file()
    ]
    facts = list(_watched(_verify_shards(tasks, verify_one, workers), manifest, progress))
    findings += [finding for fact in facts for finding in fact.findings]
    findings += check_totals(manifest, facts)
    findings += check_quarantine(dataset, manifest)
    unkept = sum(fact.found - len(fact.findings) for fact in facts)
    return VerifyReport(
        path=path,
        shards=len(facts),
        samples=sum(fact.samples for fact in facts),
        images=sum(fact.images for fact in facts),
        turns=sum(fact.turns for fact in facts),
        bytes=sum(fact.bytes for fact in facts),
        findings=tuple(findings[:max_findings]),
        found=len(findings) + unkept,
    )


def _verify_shards(
    tasks: list[ShardTask], verify_one: VerifyShard, workers: int
) -> Iterator[ShardFacts]:
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(verify_one, tasks)
        return
    # Forking needs no `if __name__ == "__main__"` in the user's script, and starts at once.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield from pool.map(verify_one, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def _watched(
    facts: Iterable[ShardFacts], manifest: Manifest, progress: Progress | None
) -> Iterator[ShardFacts]:
    total = sum(entry.bytes for entry in manifest.shards)
    done = 0
    for fact in facts:
        done += fact.bytes
        if progress is not None:
            progress(done, total)
        yield fact
