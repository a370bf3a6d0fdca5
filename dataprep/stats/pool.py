"""Doing pieces of work in several processes, their results in order and few of them waiting."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from ...errors import ShardError
from ..processes import begin_worker, interrupts_held, start_context

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 3
"""Pieces of work of each process that may be under way or done and not yet taken."""

_SELDOM = (100_000, 50, 50)
"""Thresholds of the garbage collector: records come and go in thousands, none of them in a cycle,
and looking for cycles among them took an eighth of the time."""


@contextmanager
def processes(workers: int, begin: Callable[[Any], None], job: Any) -> Iterator[Any]:
    """Something like `map` that works in so many processes, or in this one if it is one.

    Args:
        workers: processes.
        begin: called once in each with the job.
        job: anything; where processes are forked it need not be picklable.
    """
    if workers == 1:
        with _seldom_collected():
            begin(job)
            yield map
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=start_context(), initializer=_begin, initargs=(begin, job, os.getpid())
    )

    def run(work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        waiting: deque[Future[R]] = deque()
        for task in tasks:
            with interrupts_held():
                waiting.append(pool.submit(work, task))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield run
    except BrokenProcessPool as error:
        raise ShardError(
            "a worker process died, perhaps for want of memory; use fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(begin: Callable[[Any], None], job: Any, parent: int) -> None:
    begin_worker(parent)
    # The processes are the parallel part; a tokenizer's own threads would only get in their way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.freeze()
    gc.set_threshold(*_SELDOM)
    begin(job)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
