"""Writing checkpoints: now, or in another process while training goes on."""

from __future__ import annotations

import inspect
import multiprocessing
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..errors import TrainingError
from .compat import prepare_megatron

_FORMAT = ("torch_dist", 1)
Parts = Sequence[tuple[dict[str, Any], Path]]
"""What to write, and the folder for each."""


class Writer:
    """Writes checkpoints; one that is under way is finished before the next begins."""

    def __init__(self, *, in_background: bool) -> None:
        """Nothing starts before the first one."""
        self.mark: TextIO | None = None
        """By which others know, on rank 0, that the one under way is being written."""
        self._in_background = in_background
        self._queue: Any = None
        self._commit: Callable[[], None] | None = None
        self._copies: list[Any] = []
        """Of a state on a GPU, in this process's memory."""
        self._target = Path()

    def write(self, target: Path, parts: Parts, commit: Callable[[], None]) -> None:
        """Write; all ranks call it.

        Args:
            target: what it will be called, for messages.
            parts: sharded states and their folders, which exist.
            commit: called on all ranks when everything is written.

        Raises:
            TrainingError: it cannot be written; so do `poll`, `finish` and `close`.
        """
        self._target = target
        with told(target):
            self._write(parts, commit)

    def _write(self, parts: Parts, commit: Callable[[], None]) -> None:
        prepare_megatron()
        from megatron.core import dist_checkpointing

        if not self._in_background:
            for state, folder in parts:
                _report_to_a_queue_of_its_own(in_background=False)
                dist_checkpointing.save(state, str(folder), _FORMAT)
            commit()
            return
        from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue

        self._queue = self._queue or AsyncCallsQueue()
        extra: dict[str, Any] = {}
        if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters:
            extra["async_strategy"] = "mcore"  # Since 0.19 another one is the default.
        for state, folder in parts:
            _report_to_a_queue_of_its_own(in_background=True)
            request = dist_checkpointing.save(
                state, str(folder), _FORMAT, async_sharded_save=True, **extra
            )
            self._queue.schedule_async_request(self._keeping_copies(request))
        self._commit = commit

    def _keeping_copies(self, request: Any) -> Any:
        """The request, with what it copies from the GPU held until all is written.

        The process that writes shares CUDA's pinned memory with this one: what is given back there
        is soon filled anew. megatron-core holds it itself since 0.17.
        """
        copy = request.preload_fn
        if copy is None:
            return request

        def copy_and_keep() -> Any:
            self._copies.append(copy())
            return self._copies[-1]

        return request._replace(preload_fn=copy_and_keep)

    def poll(self) -> None:
        """See whether one has come to its end; all ranks call it after each step."""
        self._look(wait=False)

    def finish(self) -> None:
        """Wait for the one that is under way; all ranks call it."""
        self._look(wait=True)

    def close(self) -> None:
        """Finish, and end the writing process; all ranks call it."""
        self.finish()
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def abandon(self) -> None:
        """End the writing process of this rank; what it wrote never becomes a checkpoint.

        It asks nothing of other ranks, which may wait in another place for one that fails.
        """
        if self.mark is not None:
            self.mark.close()
        queue, self._queue, self._commit = self._queue, None, None
        for call in queue.async_calls if queue is not None else ():
            process = getattr(call.async_caller, "process", None)
            if process is not None:
                process.kill()
                process.join()
        self._copies.clear()

    def _look(self, *, wait: bool) -> None:
        if self._commit is None:
            return
        with told(self._target):
            self._queue.maybe_finalize_async_calls(blocking=wait)
            if not self._queue.get_num_unfinalized_calls():
                commit, self._commit = self._commit, None
                self._copies.clear()
                commit()


@contextmanager
def told(target: Path) -> Iterator[None]:
    """Tell of a failure which checkpoint there will not be, and why.

    Raises:
        TrainingError: what is inside failed at writing.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        raise TrainingError(
            f"{target}: cannot be written ({_cause(error)}); the checkpoints before it stay: see "
            "whether the disk is full, and the same command goes on from the last one"
        ) from error


def _cause(error: BaseException) -> str:
    """The first line of what went wrong on the first rank where it did."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _report_to_a_queue_of_its_own(*, in_background: bool) -> None:
    """Have the next save report what it wrote through a queue of this process and its children.

    megatron-core has one queue for all, in which the reports of two saves that are under way get
    mixed up, and a server process for it, which takes seconds to start and outlives a killed run.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if hasattr(filesystem_async, "_results_queue"):
        # Of this process alone a plain queue: the other kind is filled by a thread, a bit later.
        filesystem_async._results_queue = (
            multiprocessing.get_context("fork").Queue() if in_background else queue.Queue()
        )
