"""Which records are wanted: one pass over the source before anything is planned or written.

Left out on purpose is not rejected: `records == samples + rejected + filtered`.

    spans ──workers──▶ a judgement of each record ──▶ which go on, and what the others failed
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ..errors import ImageError, RecordError, ShardError
from .checked import Checked, check_records
from .engines.job import Job
from .filter import Fields, Filters, refuse_missing
from .options import ConvertOptions
from .pictures import Pictures
from .plan import ROW, Chosen
from .processes import begin_worker, interrupts_held, start_context
from .source import Source, open_source
from .stores.open import open_images
from .watch import Watch

_CHUNK = 1024
_EXAMPLES = 3


@dataclass(slots=True)
class _Judged:
    """What was found of a chunk of records; places count from its first."""

    failed: dict[int, int] = field(default_factory=dict)
    """Place -> number of the filter that the record does not pass."""
    unknown: list[int] = field(default_factory=list)
    """Places of those of which that filter cannot say anything."""
    missing: frozenset[str] = frozenset()
    """Fields of filters that no record had."""
    known: tuple[str, ...] = ()
    """Fields that the last record has."""


def chooses(options: ConvertOptions) -> bool:
    """Whether the options may leave out a record."""
    return bool(options.filter)


def choose(
    source: Source, job: Job, watch: Watch, ordinals: np.ndarray | None = None
) -> tuple[np.ndarray, Chosen]:
    """Judge every record of a source.

    Args:
        source: the source.
        job: the same for the workers, with the options.
        watch: told of the progress.
        ordinals: uint64[records], each record's index in the original source; None for 0, 1, 2, ….

    Returns:
        bool[records], whether each goes on: to be written, or to be rejected for what is wrong with
        it; and what is left out.

    Raises:
        ConfigError: an expression names a field that no record of the whole source has.
        RecordError: the source is broken, or nothing is left of the whole of it.
        ShardError: the machine refuses.
    """
    rows = _rows(source, job.options, ordinals)
    watch.begin("choose", len(rows))
    keep = np.ones(len(rows), bool)
    failed: Counter[int] = Counter()
    unknown: list[int] = []
    missing, known = frozenset(Filters(job.options.filter).missing), set[str]()
    for start, judged in _judge_all(job, rows):
        watch.update(start, 0, 0)
        missing, known = missing & judged.missing, known.union(judged.known)
        for place, number in judged.failed.items():
            keep[start + place] = False
            failed[number] += 1
        unknown += [int(rows["ordinal"][start + place]) for place in judged.unknown]
    is_whole = ordinals is None and len(rows) > 0
    if is_whole:
        refuse_missing(missing, known)
    filtered = {job.options.filter[number]: count for number, count in sorted(failed.items())}
    if is_whole and not keep.any():
        said = ", ".join(f"{name!r} {count:,}" for name, count in filtered.items())
        raise RecordError(
            f"{source.name}: all {len(rows):,} records were left out ({said}); ask for less"
        )
    return keep, _chosen(filtered, unknown)


def _chosen(filtered: dict[str, int], unknown: list[int]) -> Chosen:
    if not unknown:
        return Chosen(filtered=filtered)
    return Chosen(
        filtered=filtered,
        warnings={"filter_unknown": len(unknown)},
        warning_examples={
            "filter_unknown": [f"record {ordinal}" for ordinal in unknown[:_EXAMPLES]]
        },
    )


def _rows(source: Source, options: ConvertOptions, ordinals: np.ndarray | None) -> np.ndarray:
    """Every record's place, as in a plan."""
    place = np.dtype([("offset", "<u8"), ("length", "<u4")])
    spans = np.fromiter(map(tuple, islice(source.spans(), options.limit)), place)
    rows = np.zeros(len(spans), ROW)
    rows["ordinal"] = np.arange(len(spans), dtype=np.uint64) if ordinals is None else ordinals
    rows["offset"], rows["length"] = spans["offset"], spans["length"]
    return rows


def _judge_all(job: Job, rows: np.ndarray) -> Iterator[tuple[int, _Judged]]:
    """Judge in chunks, in the order of the source: number of the first record, and the chunk."""
    starts = range(0, len(rows), _CHUNK)
    chunks = (rows[start : start + _CHUNK] for start in starts)
    workers = min(job.options.workers, len(starts))
    if workers <= 1:
        judge = _Judge(job)
        yield from zip(starts, map(judge.judge, chunks), strict=True)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=start_context(),
        initializer=_begin_worker,
        initargs=(job, os.getpid()),
    )
    try:
        with interrupts_held():
            judged = pool.map(_judge_in_worker, chunks)
        yield from zip(starts, judged, strict=True)
    except BrokenProcessPool as error:
        raise ShardError(
            f"{job.out}: a worker process died, perhaps for want of memory; use fewer --workers, "
            "and run the same command again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Judge:
    """One process's hold on the source, the images and the filters."""

    def __init__(self, job: Job) -> None:
        self._options = job.options
        self._source = open_source(job.source, job.form)
        self._images = open_images(job.images, job.work)
        self._read = self._source.reader()
        self._filters = Filters(job.options.filter)

    def judge(self, rows: np.ndarray) -> _Judged:
        """Judge a chunk of records."""
        judged = _Judged()
        may_insert = self._options.placeholder == "insert"
        for place, found in enumerate(
            check_records(self._source.data, self._read, rows.tolist(), may_insert=may_insert)
        ):
            try:
                self._judge_one(place, found, judged)
            except ImageError:
                continue  # Its shard will reject the record, and say why.
        judged.missing = frozenset(self._filters.missing)
        return judged

    def _judge_one(self, place: int, found: Checked, judged: _Judged) -> None:
        record = found.record
        if record is None or found.error is not None:
            return
        pictures = Pictures(self._images, record.images, self._options)
        fields = Fields(found.content, record, pictures.sizes)
        failed, is_unknown = self._filters.judge(fields)
        if self._filters.missing and place == 0:
            judged.known = tuple(fields.fields)
        if failed is not None:
            judged.failed[place] = failed
            if is_unknown:
                judged.unknown.append(place)


_judge: _Judge | None = None


def _begin_worker(job: Job, parent: int) -> None:
    global _judge
    begin_worker(parent)
    _judge = _Judge(job)


def _judge_in_worker(rows: np.ndarray) -> _Judged:
    assert _judge is not None
    return _judge.judge(rows)
