"""energon's loader, opened and closed as training needs it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import tarfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal

from megatron.energon import SavableDataset, get_savable_loader
from megatron.energon.errors import SampleException

from ..errors import NevaPrepError, ShardError

StartMethod = Literal["fork", "spawn"]
_Place = tuple[list[int], int]
"""Number of the last batch of each worker, and the worker whose turn is next."""

_CHECKPOINT_SECONDS = 10.0
"""Workers note their place so often; a restored loader reads again what lies behind the note."""
_SHARD_FAULTS = (OSError, EOFError, tarfile.TarError, SampleException)


def open_loader(dataset: SavableDataset, *, start_method: StartMethod, pin_memory: bool) -> Any:
    """Energon's savable loader over a chain of datasets; its workers start with the first batch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*no accelerator")
        loader = get_savable_loader(
            dataset,
            checkpoint_every_sec=_CHECKPOINT_SECONDS,
            watchdog_timeout_seconds=None,
            # A full collection takes 0.2 s where transformers is imported, and energon makes one
            # every ten batches. Python's own collector suffices: batches are in no cycles.
            gc_collect_every_n_steps=0,
        )
    loader.pin_memory = pin_memory
    if loader.num_workers:
        loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
    if loader.num_workers and start_method != "fork":
        context = multiprocessing.get_context(start_method)
        loader.multiprocessing_context = context
        # energon makes them for forked workers, which spawned ones cannot take over.
        loader.cmd_queues[:] = [context.Queue() for _ in loader.cmd_queues]
        loader.result_queues[:] = [context.Queue() for _ in loader.result_queues]
        loader.worker_init_fn = partial(_init_spawned, loader.worker_init_fn)
    return loader


def restore_loader(loader: Any, state: Any) -> None:
    """Put a loader that has not started at a saved place."""
    loader.restore_state_rank(state)
    if state is None or not loader.num_workers:
        return
    # energon forgets how far a worker had come behind its last note. Without this, a state that is
    # saved before every worker has given a batch would give some batches again.
    loader._worker_sample_counters = [
        worker.state.sample_index - 1 + worker.offset if worker.state is not None else -1
        for worker in state.worker_states
    ]


def _init_worker(init: Callable[[int], None], worker: int) -> None:
    """Begin as energon's workers do, and leave it to the training process when to end.

    Schedulers send SIGTERM to all processes; a worker that died of it would take the training
    process with it, which is about to save.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    init(worker)


def _init_spawned(init: Callable[[int], None], worker: int) -> None:
    """Begin as energon's workers do, and end at once: taking torch apart takes a second."""
    init(worker)
    atexit.register(os._exit, 0)


class Batches:
    """The batches of a loader; `close()` ends its worker processes and waits for their end.

    Left to itself, a loader that is dropped takes up to ten seconds for this, and a program that
    ends would wait for its workers for ever. So the end of the program closes it, too.
    """

    def __init__(self, loader: Any) -> None:
        """Take a loader of energon's; it starts with the first batch."""
        self.loader = loader
        self._iterator: Iterator[Any] | None = None
        self._ahead: deque[tuple[Any, _Place]] = deque()
        self._place: _Place | None = None
        self._process = os.getpid()
        self.closed = False

    @property
    def begun(self) -> bool:
        """Whether a batch was asked for."""
        return self._iterator is not None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self.loader)
            # What is registered last is called first: before multiprocessing waits for the workers,
            # which do not heed its SIGTERM.
            atexit.register(self.close)
            # A worker that is asked for its state before it has begun answers with a wrong one, so
            # each gives its first batch before any is handed out.
            for _ in range(self.loader.num_workers):
                self._pull()
        if not self._ahead and not self._pull():
            raise StopIteration
        batch, self._place = self._ahead.popleft()
        return batch

    def save_state(self) -> Any:
        """The state in energon's terms, behind the batch that was given last."""
        if self._place is None:
            return self.loader.save_state_rank()
        ahead = self._reached()
        self._go(self._place)
        try:
            return self.loader.save_state_rank()
        finally:
            self._go(ahead)

    def _pull(self) -> bool:
        """Take a batch from the workers; False at the end."""
        assert self._iterator is not None
        try:
            batch = next(self._iterator)
        except StopIteration:
            return False
        self._ahead.append((batch, self._reached()))
        return True

    def _reached(self) -> _Place:
        return list(self.loader._worker_sample_counters), self.loader._next_worker_id

    def _go(self, place: _Place) -> None:
        self.loader._worker_sample_counters, self.loader._next_worker_id = place

    def close(self) -> None:
        """End the worker processes."""
        if self.closed or os.getpid() != self._process:  # A fork has no workers of its own.
            return
        self.closed = True
        atexit.unregister(self.close)
        self._ahead.clear()
        if self._iterator is not None:
            with suppress(ValueError):  # Another thread is in it.
                self._iterator.close()  # type: ignore[attr-defined]
        workers = getattr(self.loader, "_iterator", None)
        if workers is not None:
            workers._shutdown_workers()
            self.loader._iterator = None
            for worker in workers._workers:
                if worker.is_alive():  # It reads from where no answer comes.
                    worker.kill()
                    worker.join()
        for queue in (*self.loader.cmd_queues, *self.loader.result_queues):
            queue.close()
            queue.cancel_join_thread()


@contextmanager
def our_errors(name: str) -> Iterator[None]:
    """Errors of energon and of worker processes, told as ours.

    Args:
        name: of the dataset, for messages.

    Raises:
        NevaPrepError: as it was raised, without the traceback of a worker around it.
        ShardError: a shard cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*no accelerator")
            yield
    except Exception as error:
        ours = as_ours(name, error)
        if ours is error:
            raise
        raise ours from error


def as_ours(name: str, error: Exception) -> Exception:
    """An error of energon or of a worker process as ours; any other as it is.

    Args:
        name: of the dataset, for messages.
        error: what was raised.
    """
    if isinstance(error, NevaPrepError):
        return _without_traceback(error)
    if not isinstance(error, _SHARD_FAULTS):
        return error
    finding = str(error).strip().rpartition("\n")[2] or type(error).__name__
    return ShardError(f"{name}: reading failed: {finding}; run neva-prep verify on it")


def _without_traceback(error: NevaPrepError) -> NevaPrepError:
    """The error that a worker raised; DataLoader puts the worker's traceback into its message."""
    kind = type(error)
    text = str(error)
    mark = f"{kind.__module__}.{kind.__qualname__}: "
    if not text.startswith("Caught ") or mark not in text:
        return error
    return kind(text.rpartition(mark)[2].strip())
