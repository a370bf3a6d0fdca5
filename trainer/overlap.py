"""Gradients and weights that travel between data-parallel ranks while these compute.

megatron-core lets a bucket of gradients go when the backward pass has filled it, and asks for a
bucket of weights when the forward pass needs it. A batch of text alone passes other layers than one
with images, and in another order: ranks would send buckets that do not belong together, and stop or
compute nonsense. Here buckets go in one order on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def keep_order(models: Sequence[Any]) -> None:
    """Have each wrapper's buckets of gradients go one after another, those of last layers first.

    Args:
        models: megatron-core's DistributedDataParallel, with overlapped gradient reduction.
    """
    for model in models:
        _Queue(model.bucket_groups)


def start_gather(models: Sequence[Any]) -> None:
    """Ask for all weights, those of first layers first; layers wait for theirs."""
    for model in models:
        for group in reversed(model.bucket_groups):
            group.start_param_sync()


def finish_gather(models: Sequence[Any]) -> None:
    """Wait for weights that no layer waited for; then they may be changed."""
    for model in models:
        for group in model.bucket_groups:
            if group.param_gather_handle is not None:
                group.param_gather_handle.wait()
                group.param_gather_handle = None


class _Queue:
    """Buckets of gradients in the order in which they go; each waits for those before it."""

    def __init__(self, groups: Sequence[Any]) -> None:
        self._start = [group.start_grad_sync for group in groups]
        self._ready: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._next = 0
        for place, group in enumerate(groups):
            group.start_grad_sync = self._announce(place)

    def _announce(self, place: int) -> Callable[..., None]:
        def announce(*args: Any, **kwargs: Any) -> None:
            self._ready[place] = (args, kwargs)
            while self._next in self._ready:
                given, named = self._ready.pop(self._next)
                self._start[self._next](*given, **named)
                self._next += 1
            if self._next == len(self._start):
                self._next = 0

        return announce
