"""What worker processes share: how they start, and what ends them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def start_context() -> BaseContext:
    """Fork where that is safe: it needs no `if __name__ == "__main__"`, and starts at once."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end with it; called first in a worker.

    Args:
        parent: process id of the parent.
    """
    # Ctrl-C reaches every process of the terminal; only the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait: a worker that it met before it ignores Ctrl-C would print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
