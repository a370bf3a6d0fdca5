"""Running the shards of a plan: here and now, or by several processes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ShardError
from .journal import ROWS_FILE, WORK_FOLDER, save_result
from .options import ConvertOptions
from .plan import ShardPlan
from .processes import begin_worker, interrupts_held, start_context
from .shard import ShardMaker
from .source import open_source
from .stores.open import open_images

_TICK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a process needs to write any shard of a plan."""

    source: Path
    source_name: str
    """File name that messages and quarantine rows give."""
    form: str
    """Of the source's records."""
    images: str
    options: ConvertOptions
    out: Path
    journal: Path
    """Where the plan is, and where results go."""

    @property
    def work(self) -> Path:
        """What was made of the source."""
        return self.journal / WORK_FOLDER


@dataclass(frozen=True, slots=True)
class Tally:
    """How far the work is."""

    bytes: int
    records: int
    rejected: int
    shard_ended: bool = False


class _Stopped(Exception):
    """The user or an error ends the work."""


def run_shards(
    job: Job, shards: Sequence[ShardPlan], workers: int, tick: Callable[[Tally], None]
) -> None:
    """Write shards; each result goes to the journal.

    Args:
        job: the conversion.
        shards: those still to be written.
        workers: processes.
        tick: called several times a second; what it raises ends the work.

    Raises:
        NevaPrepError: from a shard, or ShardError where a worker process died.
    """
    if workers == 1 or len(shards) <= 1:
        _run_here(job, shards, tick)
    else:
        _run_in_pool(job, shards, min(workers, len(shards)), tick)


def _run_here(job: Job, shards: Sequence[ShardPlan], tick: Callable[[Tally], None]) -> None:
    maker = _Worker(job)
    base = Tally(0, 0, 0)
    for shard in shards:
        latest = base

        def progress(written: int, records: int, rejected: int, base: Tally = base) -> None:
            nonlocal latest
            latest = Tally(base.bytes + written, base.records + records, base.rejected + rejected)
            tick(latest)

        maker.write(shard, progress)
        base = replace(latest, shard_ended=True)
        tick(base)


def _run_in_pool(
    job: Job, shards: Sequence[ShardPlan], workers: int, tick: Callable[[Tally], None]
) -> None:
    context = start_context()
    # Bytes, records and rejections of each shard, and one number that tells all to stop.
    shared = context.RawArray(ctypes.c_uint64, 3 * len(shards) + 1)
    view = np.ctypeslib.as_array(shared)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(job, shared, os.getpid())
    )
    try:
        with interrupts_held():
            waiting = {
                pool.submit(_write_in_worker, slot, shard) for slot, shard in enumerate(shards)
            }
        while waiting:
            done, waiting = wait(waiting, _TICK_SECONDS, FIRST_EXCEPTION)
            for future in done:
                future.result()
            written, records, rejected = view[:-1].reshape(-1, 3).sum(axis=0).tolist()
            tick(Tally(written, records, rejected, shard_ended=bool(done)))
    except BrokenProcessPool as error:
        raise ShardError(
            f"{job.out}: a worker process died, perhaps for want of memory; use fewer --workers, "
            "and go on with --resume"
        ) from error
    finally:
        view[-1] = 1
        pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """One process's hold on a job: the source and the plan, opened once."""

    def __init__(self, job: Job) -> None:
        self.journal = job.journal
        self.maker = ShardMaker(
            open_source(job.source, job.form),
            job.source_name,
            open_images(job.images, job.work),
            job.options,
            job.out,
            job.journal / ROWS_FILE,
        )

    def write(self, shard: ShardPlan, progress: Callable[[int, int, int], None]) -> None:
        save_result(self.journal, *self.maker.make(shard, progress))


_worker: _Worker | None = None
_shared: Any = None


def _begin_worker(job: Job, shared: Any, parent: int) -> None:
    global _worker, _shared
    # A worker must not outlive its parent: the next --resume would write the same files.
    begin_worker(parent)
    _worker, _shared = _Worker(job), shared


def _write_in_worker(slot: int, shard: ShardPlan) -> None:
    assert _worker is not None
    at = 3 * slot

    def progress(written: int, records: int, rejected: int) -> None:
        _shared[at], _shared[at + 1], _shared[at + 2] = written, records, rejected
        if _shared[-1]:
            raise _Stopped

    _worker.write(shard, progress)
