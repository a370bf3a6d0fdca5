"""Judging records one by one, in several processes: filters, evaluation sets, marks for --dedup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np

from ..errors import ImageError, ShardError
from ..loaders.format import IMAGE_PLACEHOLDER
from ..loaders.turns import Turn
from .checked import Checked, check_records, images_of
from .dedup import MARK, mark_of
from .engines.job import Job
from .filter import Fields, Filters
from .layouts import layout_of
from .leakage import Evaluation, Excluder, Leak
from .options import parse_dedup
from .pictures import Pictures
from .processes import begin_worker, interrupts_held, start_context
from .reencode import shrinking_of
from .source import open_source
from .stores.ahead import read_ahead
from .stores.open import open_images

_CHUNK = 1024


@dataclass(slots=True)
class Judged:
    """What was found of a chunk of records; places count from its first."""

    failed: dict[int, int] = field(default_factory=dict)
    """Place -> number of the filter that the record does not pass."""
    unknown: list[int] = field(default_factory=list)
    """Places of those of which that filter cannot say anything."""
    missing: frozenset[str] = frozenset()
    """Fields of filters that no record had."""
    known: tuple[str, ...] = ()
    """Fields that its first record has."""
    leaks: dict[int, Leak] = field(default_factory=dict)
    """Place -> what the record shares with an evaluation set."""
    marks: np.ndarray = field(default_factory=lambda: np.empty(0, MARK))
    """Of the records that pass, where repetitions are looked for; `row` counts from the first of
    all records."""
    looks: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """Of the images of those."""


def judge_all(job: Job, rows: np.ndarray, evaluation: Evaluation) -> Iterator[tuple[int, Judged]]:
    """Judge in chunks, in the order of the source.

    Args:
        job: the conversion.
        rows: ROW[records], where each record lies.
        evaluation: what must not occur.

    Yields:
        The number of a chunk's first record, and what was found.

    Raises:
        ShardError: a worker died.
    """
    starts = range(0, len(rows), _CHUNK)
    chunks = ((start, rows[start : start + _CHUNK]) for start in starts)
    workers = min(job.options.workers, len(starts))
    if workers <= 1:
        judge = _Judge(job, evaluation)
        yield from zip(starts, (judge.judge(*chunk) for chunk in chunks), strict=True)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=start_context(),
        initializer=_begin_worker,
        initargs=(job, evaluation, os.getpid()),
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
    """One process's hold on the source, the images and what is asked of records."""

    def __init__(self, job: Job, evaluation: Evaluation) -> None:
        self._options = job.options
        self._source = open_source(job.source, job.form)
        self._images = open_images(job.images, job.work)
        self._read = self._source.reader()
        self._filters = Filters(job.options.filter)
        self._excluder = Excluder(evaluation, job.options.exclude_by) if evaluation.places else None
        self._shrinking = shrinking_of(job.options)
        self._with_looks = parse_dedup(job.options.dedup or "exact") is not None

    def judge(self, start: int, rows: np.ndarray) -> Judged:
        """Judge a chunk of records, whose first has the number `start`."""
        judged = Judged()
        marks: list[tuple[int, int, int, int, int]] = []
        looks: list[int] = []
        may_insert = self._options.placeholder == "insert"
        checked = check_records(
            self._source.data,
            self._read,
            rows.tolist(),
            may_insert=may_insert,
            layout=layout_of(self._options.layout),
        )
        if self._options.dedup or self._excluder:
            checked = read_ahead(checked, images_of, self._images)
        for place, found in enumerate(checked):
            # What is wrong with a record, or with its images, its shard will say.
            if found.record is None or found.error is not None:
                continue
            pictures = Pictures(self._images, found.record.images, self._options)
            try:
                if self._passes(place, found, pictures, judged) and self._options.dedup:
                    if self._with_looks and self._shrinking is not None:
                        # Exact repetitions are as damaged as what they repeat.
                        pictures.refuse_damaged(self._shrinking)
                    mark = mark_of(
                        _turns_as_written(found),
                        pictures,
                        by=self._options.dedup_by,
                        with_looks=self._with_looks,
                    )
                    if mark is not None:
                        marks.append((start + place, *mark[:3], len(mark.looks)))
                        looks += mark.looks
            except ImageError:
                continue
        judged.marks, judged.looks = np.array(marks, MARK), np.array(looks, np.uint64)
        judged.missing = frozenset(self._filters.missing)
        return judged

    def _passes(self, place: int, found: Checked, pictures: Pictures, judged: Judged) -> bool:
        assert found.record is not None
        if self._filters.expressions:
            fields = Fields(found.content, found.record, pictures.sizes)
            failed, is_unknown = self._filters.judge(fields)
            if not judged.known and self._filters.missing:
                judged.known = tuple(fields.fields)
            if failed is not None:
                judged.failed[place] = failed
                if is_unknown:
                    judged.unknown.append(place)
                return False
        leak = self._excluder and self._excluder.find(found.record.turns, pictures)
        if leak:
            judged.leaks[place] = leak
        return not leak


def _turns_as_written(found: Checked) -> list[Turn]:
    """The conversation with the placeholders that its sample gets."""
    assert found.record is not None
    turns = found.record.turns
    if not found.insert:
        return turns
    at = 1 if turns[0].role == "system" else 0
    marks = f"{IMAGE_PLACEHOLDER}\n" * len(found.record.images)
    first = Turn(role=turns[at].role, value=marks + turns[at].value)
    return [*turns[:at], first, *turns[at + 1 :]]


_judge: _Judge | None = None


def _begin_worker(job: Job, evaluation: Evaluation, parent: int) -> None:
    global _judge
    begin_worker(parent)
    _judge = _Judge(job, evaluation)


def _judge_in_worker(chunk: tuple[int, np.ndarray]) -> Judged:
    assert _judge is not None
    return _judge.judge(*chunk)
