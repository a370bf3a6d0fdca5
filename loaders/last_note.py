"""The note of what a worker skipped behind its last batch of a pass.

A note travels with a batch, and no batch comes after the last one. So each worker sends a note by
itself at the end of its pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from megatron.energon import SavableDataset
from megatron.energon.wrappers.base import BaseWrapperDataset

from .skips import Note


class LastNoteDataset(BaseWrapperDataset):  # type: ignore[misc]
    """Batches with their notes, then no batch with the note of the rest."""

    _savable_fields = ()

    def __init__(self, dataset: SavableDataset, drain: Callable[[], Note]) -> None:
        """Take a pass of batches, and what gives the note since the last one."""
        super().__init__(dataset, worker_config=dataset.worker_config)
        self._drain = drain

    def __iter__(self) -> Iterator[Any]:
        yield from self.dataset
        yield None, self._drain()

    def reset_state_own(self) -> None:
        """There is no state."""

    def len_worker(self, worker_idx: int | None = None) -> int:
        """Batches of a worker."""
        return int(self.dataset.len_worker(worker_idx))

    def config(self) -> dict[str, Any]:
        """For energon's log."""
        return {"type": type(self).__qualname__, "dataset": self.dataset.config()}


def has_batch(found: Any) -> bool:
    """Whether it is more than the last note of a worker."""
    return not (isinstance(found, tuple | list) and len(found) == 2 and found[0] is None)
