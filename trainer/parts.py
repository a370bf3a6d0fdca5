"""The parts of a step: code marks them, and a profile may time them.

    with mark("vision"):
        features = ...

Without a profile a mark does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

Part = Literal["data", "batches", "vision", "decoder", "loss", "backward", "optimizer", "other"]
"""Waiting for the loader; expanding and sending batches; vision encoder and projector; decoder,
forward; output layer and loss, forward; backward, what is computed again for it and summed over
ranks included; optimizer; what is left of a step."""

Open = Callable[[Part], AbstractContextManager[object]]
_NOTHING = nullcontext()
_open: Open | None = None


def mark(name: Part) -> AbstractContextManager[object]:
    """Mark a part of the step; parts inside it count by themselves."""
    return _NOTHING if _open is None else _open(name)


@contextmanager
def marks_open(open_part: Open) -> Iterator[None]:
    """Have marks open something, in this process."""
    global _open
    _open = open_part
    try:
        yield
    finally:
        _open = None


class Stopwatch:
    """Seconds of each part, without those of the parts inside it."""

    def __init__(self, synchronize: Callable[[], object]) -> None:
        """Nothing is timed yet.

        Args:
            synchronize: waits until the device has done what it was given.
        """
        self.seconds: dict[Part, float] = {}
        self._synchronize = synchronize
        self._inside: list[Part] = []
        self._since = 0.0

    @contextmanager
    def time(self, name: Part) -> Iterator[None]:
        """Time a part."""
        self._turn()
        self._inside.append(name)
        try:
            yield
        finally:
            self._turn()
            self._inside.pop()

    def go_over(self, name: Part) -> None:
        """Count what follows in the innermost part under another name."""
        self._turn()
        self._inside[-1] = name

    def _turn(self) -> None:
        self._synchronize()
        now = time.perf_counter()
        if self._inside:
            name = self._inside[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
