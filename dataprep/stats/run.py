"""The front door: a source or a dataset, counted by several processes.

path ──tasks──▶ records ──count──▶ counts of parts ──merge──▶ counts ──summarize──▶ DatasetStats
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import ConfigError, RecordError, ShardError, TemplateError
from ...loaders.dataset_kind import check_typed_dataset
from ...loaders.format import QUARANTINE_FILE
from ...loaders.remote import is_remote, name_of, open_place
from ...loaders.remote_cache import cached_dataset
from ...loaders.remote_shard import shard_size
from ...loaders.trust import TrustedDataset
from ..folder_kind import holds_source, refuse_blend
from ..quarantine import read_quarantine
from ..readers.open import look_into
from ..source import Source
from ..spool import named
from ..stores.store import ImageStore
from ..stores.table_files import is_pattern, table_files
from .count import PartCounts, count_items
from .pool import processes
from .read_dataset import DatasetReader, DatasetTask, dataset_tasks
from .read_source import SourceReader, SourceTask, source_tasks
from .result import DatasetStats
from .summary import Origin, summarize
from .tokens import TokenCounts, Tokenizing

Progress = Callable[[int, int], None]
"""Called with the bytes counted so far and in all."""
_MAX_TOP = 1000


def stats(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    split: str | None = None,
    tokenizing: Tokenizing | None = None,
    global_batch_size: int | None = None,
    top: int = 10,
    workers: int = 1,
    progress: Progress | None = None,
) -> DatasetStats:
    """Count what a source or a dataset holds.

    Each record is read once; one that cannot be read, or that convert would reject, is counted with
    its reason and left out of all other figures. Memory does not grow with the number of records,
    but for a few bytes of each in the packing forecast; docs/stats.md has the bounds.

    Args:
        path: a source file, or what `neva-prep convert` wrote: a folder, or an address.
        images: image folder of a source; its images are then looked at as convert does. None takes
            their number from the records alone.
        split: of a dataset; None for all of it.
        tokenizing: how records become tokens; None leaves out tokens and the packing forecast.
        global_batch_size: packs of one step, for the forecast.
        top: how many of the most frequent texts, paths and sizes to tell.
        workers: processes.
        progress: told after each piece of work.

    Raises:
        ConfigError: settings that cannot work, or no such split.
        RecordError: the source as a whole is broken, or there is no record that counts.
        TemplateError: no record can be tokenized.
        ShardError: the dataset, its index or a shard is missing or damaged.
        RemoteError: the service at an address refuses, or cannot be reached.

    Example:
        >>> found = stats("shards/", workers=8)  # doctest: +SKIP
        >>> found.images.mean, found.text_only   # doctest: +SKIP
    """
    _check_numbers(workers, top, global_batch_size)
    with _at_hand(path) as here:
        job = _open(here, images, split, tokenizing)
        counts = PartCounts()
        done = 0
        with processes(workers, _begin, job) as run:
            for part, num_bytes in run(_count, job.tasks()):
                counts.merge(part)
                done += num_bytes
                if progress is not None:
                    progress(done, job.num_bytes)
            if not counts.record_bytes.total:
                raise _nothing_counted(job.origin, counts)
            if counts.tokens is not None and not counts.tokens.text.total:
                raise _nothing_tokenized(job.origin, counts.tokens)
            found = summarize(job.origin, counts, tokenizing, global_batch_size, top, run)
    return replace(found, path=name_of(path)) if is_remote(path) else found


@contextmanager
def _at_hand(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A source or a folder as it is; of an address the folder that stands for it."""
    if not is_remote(path):
        yield Path(path)
        return
    here = cached_dataset(path, with_index=True, with_quarantine=True)
    with named(here, open_place(path)):
        yield here


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """All that a process needs to know to count any part."""

    origin: Origin
    tokenizing: Tokenizing | None
    source: Source | None = None
    folder: ImageStore | None = None
    dataset: TrustedDataset | None = None

    @property
    def num_bytes(self) -> int:
        """Of all tasks."""
        return self.origin.num_bytes if self.source is None else len(self.source.data)

    def tasks(self) -> Iterator[SourceTask | DatasetTask]:
        if self.source is not None:
            return source_tasks(self.source)
        assert self.dataset is not None
        chosen = frozenset(self.origin.files.values())
        return dataset_tasks(self.dataset.path, self.dataset.shard_samples, chosen)


def _open(
    path: Path,
    images: str | os.PathLike[str] | None,
    split: str | None,
    tokenizing: Tokenizing | None,
) -> _Job:
    if holds_source(path):
        if split is not None:
            raise ConfigError(f"--split {split}: {path} is a source, which has no splits yet")
        source, folder = look_into(path, None if images is None else os.fspath(images))
        origin = Origin(
            path=path,
            kind="source",
            num_bytes=_source_size(path),
            files={},
            has_looked=folder is not None,
            source=source,
        )
        return _Job(origin=origin, tokenizing=tokenizing, source=source, folder=folder)
    if images is not None:
        raise ConfigError(f"--images {images}: {path} is a dataset, which has its images in it")
    refuse_blend(path)
    dataset, _ = check_typed_dataset(path)
    return _Job(origin=_dataset_origin(dataset, split), tokenizing=tokenizing, dataset=dataset)


def _source_size(path: Path) -> int:
    """Bytes of a source's files, whatever was made of them to read them."""
    if is_pattern(path):
        return sum(file.stat().st_size for file in table_files(path).values())
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _dataset_origin(dataset: TrustedDataset, split: str | None) -> Origin:
    """What is known of a dataset before its samples are read."""
    path = dataset.path
    if split is not None and split not in dataset.splits:
        raise ConfigError(f"{path}: has no split {split!r}, only {', '.join(dataset.splits)}")
    splits = {
        name: sum(dataset.shard_samples[shard] for shard in shards)
        for name, shards in dataset.splits.items()
    }
    chosen = [
        name for part in ([split] if split is not None else splits) for name in dataset.splits[part]
    ]
    if not sum(dataset.shard_samples[name] for name in chosen):
        what = "no samples" if split is None else f"an empty split {split!r}"
        raise ConfigError(f"{path}: has {what}; give another split, or see {QUARANTINE_FILE}")
    files = {
        number: name for number, name in enumerate(dataset.shard_samples) if name in set(chosen)
    }
    rejected = path / QUARANTINE_FILE
    rows = read_quarantine(rejected) if rejected.is_file() else ()
    return Origin(
        path=path,
        kind="dataset",
        split=split,
        splits=splits,
        num_bytes=sum(_size(path / name) for name in files.values()),
        files=files,
        has_looked=True,
        quarantined=dict(Counter(row.reason for row in rows).most_common()),
    )


def _size(shard: Path) -> int:
    try:
        return shard_size(shard)
    except OSError as error:
        raise ShardError(
            f"{shard}: cannot be read ({error.strerror}); run neva-prep verify {shard.parent}"
        ) from error


def _check_numbers(workers: int, top: int, global_batch_size: int | None) -> None:
    if workers < 1:
        raise ConfigError(f"--workers {workers}: must be 1 or more")
    if not 0 <= top <= _MAX_TOP:
        raise ConfigError(f"--top {top}: must be 0 to {_MAX_TOP}")
    if global_batch_size is not None and global_batch_size < 1:
        raise ConfigError(f"--global-batch-size {global_batch_size}: must be 1 or more")


def _nothing_counted(origin: Origin, counts: PartCounts) -> RecordError:
    if not counts.left_out:
        return RecordError(f"{origin.path}: the list is empty; there is nothing to count")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.left_out.most_common())
    example = next(iter(counts.examples.values()))[0]
    return RecordError(
        f"{origin.path}: none of {sum(counts.left_out.values()):,} records can be counted "
        f"({reasons}); for example {example}. Run neva-prep doctor, or correct the records"
    )


def _nothing_tokenized(origin: Origin, counts: TokenCounts) -> TemplateError:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.failures.most_common())
    example = next(iter(counts.examples.values()))[0]
    return TemplateError(
        f"{origin.path}: none of {sum(counts.failures.values()):,} records can be tokenized "
        f"({reasons}); for example {example}. Give another --template"
    )


class _Worker:
    """One process's hold on a job."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.reader: Any
        if job.source is not None:
            self.reader = SourceReader(job.source, job.folder)
        else:
            assert job.dataset is not None
            self.reader = DatasetReader(job.dataset.path, job.dataset.excluded_samples)

    def count(self, task: SourceTask | DatasetTask) -> tuple[PartCounts, int]:
        return count_items(self.reader.read(task), self.job.tokenizing), task.num_bytes


_worker: _Worker | None = None


def _begin(job: _Job) -> None:
    global _worker
    _worker = _Worker(job)


def _count(task: SourceTask | DatasetTask) -> tuple[PartCounts, int]:
    assert _worker is not None
    return _worker.count(task)
