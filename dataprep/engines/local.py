"""This machine's engine: shards are written here and now, or by several processes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ShardError
from ..plan import ShardPlan, read_rows
from ..processes import begin_worker, interrupts_held, start_context
from ..results import save_result
from .job import Job, Progress, Tally, Worker

_TICK_SECONDS = 0.1


class _Stopped(Exception):
    """The user or an error ends the work."""


def run_here(job: Job, shards: Sequence[ShardPlan], tick: Callable[[Tally], None]) -> None:
    """Write shards in this process; see `engine.run_shards`."""
    worker = Worker(job)
    base = Tally(0, 0, 0)
    for shard in shards:
        latest = base

        def progress(written: int, records: int, rejected: int, base: Tally = base) -> None:
            nonlocal latest
            latest = Tally(base.bytes + written, base.records + records, base.rejected + rejected)
            tick(latest)

        _write(worker, shard, progress)
        base = replace(latest, shard_ended=True)
        tick(base)


def run_in_pool(
    job: Job, shards: Sequence[ShardPlan], workers: int, tick: Callable[[Tally], None]
) -> None:
    """Write shards in several processes; see `engine.run_shards`."""
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


def _write(worker: Worker, shard: ShardPlan, progress: Progress) -> None:
    rows = read_rows(worker.job.rows, shard)
    save_result(worker.job.journal, *worker.make(shard, rows, progress))


_worker: Worker | None = None
_shared: Any = None


def _begin_worker(job: Job, shared: Any, parent: int) -> None:
    global _worker, _shared
    # A worker must not outlive its parent: the next --resume would write the same files.
    begin_worker(parent)
    _worker, _shared = Worker(job), shared


def _write_in_worker(slot: int, shard: ShardPlan) -> None:
    assert _worker is not None
    at = 3 * slot

    def progress(written: int, records: int, rejected: int) -> None:
        _shared[at], _shared[at + 1], _shared[at + 2] = written, records, rejected
        if _shared[-1]:
            raise _Stopped

    _write(_worker, shard, progress)
