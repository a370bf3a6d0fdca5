"""Being told to stop: SIGTERM, as schedulers send it before they take a machine away."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch

from .ranks import device


class StopSignal:
    """Notes SIGTERM between `with` and its end; a step that is under way is finished first."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self.told = False
        self._before: Any = None

    def __enter__(self) -> StopSignal:
        # Only the main thread may say what a signal does; elsewhere it is left as it is.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def on_any_rank(self) -> bool:
        """Whether a rank was told; all ranks ask, and get the same answer."""
        if torch.distributed.get_world_size() == 1:
            return self.told
        told = torch.tensor(int(self.told), device=device())
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = True
