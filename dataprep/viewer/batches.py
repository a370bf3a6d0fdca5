"""Batches of the training stream by their number, kept while they are looked at."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from ...errors import ConfigError, NevaPrepError
from ..look.stops import Flow
from ..look.view import BatchView

KEPT = 3
"""Batches; each holds the pixels of all its tiles."""
WAITING = 2
"""Requests that a batch is made for; more would take the threads of all other pages."""
FARTHEST = 1000
"""Batches that a page can ask for: all before it are made to get to one."""


class Batches:
    """Reads the stream forward, and from its start again for what is gone; any thread may ask."""

    def __init__(self, flow: Flow) -> None:
        """Take what is looked at; the stream is opened with the first batch."""
        self._flow = flow
        self._places = threading.BoundedSemaphore(WAITING)
        self._making = threading.Lock()
        self._lock = threading.Lock()
        self._stream: Iterator[BatchView] | None = None
        self._next = 0
        self._kept: OrderedDict[int, BatchView] = OrderedDict()

    def at(self, step: int) -> BatchView:
        """A batch.

        Raises:
            ConfigError: there is no tokenizer, or no such batch.
            NevaPrepError: the dataset cannot be streamed, or others wait for batches already.
        """
        if not 0 <= step < FARTHEST:
            raise ConfigError(f"batch {step}: the viewer shows batches 0 to {FARTHEST - 1}")
        if (kept := self._find(step)) is not None:
            return kept
        if not self._places.acquire(blocking=False):
            raise NevaPrepError(f"batch {step}: other batches are being made; look again later")
        try:
            with self._making:
                if (kept := self._find(step)) is None:
                    kept = self._keep(step, self._read(step))
                return kept
        finally:
            self._places.release()

    def close(self) -> None:
        """Close the stream."""
        with self._making:
            self._reset()

    def _find(self, step: int) -> BatchView | None:
        with self._lock:
            if step in self._kept:
                self._kept.move_to_end(step)
            return self._kept.get(step)

    def _keep(self, step: int, view: BatchView) -> BatchView:
        with self._lock:
            self._kept[step] = view
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return view

    def _read(self, step: int) -> BatchView:
        if self._stream is None or step < self._next:
            self._reset()
            self._stream = self._flow.batches(range(FARTHEST))
        try:
            while True:
                view = next(self._stream)
                self._next = view.step + 1
                if view.step == step:
                    return view
        except StopIteration:
            self._reset()
            raise ConfigError(f"batch {step}: the stream has ended before it") from None
        except BaseException:
            # A generator that raised is over; the next look opens another.
            self._reset()
            raise

    def _reset(self) -> None:
        stream, self._stream, self._next = self._stream, None, 0
        if stream is not None:
            stream.close()  # type: ignore[attr-defined]
