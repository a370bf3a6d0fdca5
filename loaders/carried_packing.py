"""energon's packing, with what no pack took carried over to the next buffer.

    reading buffer ──full──▶ packs of the oldest ──▶ packs to yield
          ▲                        │
          ╰──────── the rest ──────╯        it is saved with the buffer, so a resume has it too

energon itself empties the buffer each time, and its last packs are then less full: 0.6 % at 4096.
Nor is energon's progress bar drawn, which goes wherever standard error goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from megatron.energon import SavableDataset
from megatron.energon.wrappers import PackingDataset

Select = Callable[[list[Any], int], tuple[list[list[Any]], list[Any]]]
"""Packs of the samples, while more than so many wait; and the samples that stay behind."""


class CarriedPackingDataset(PackingDataset):  # type: ignore[misc]
    """Packs half of a full buffer at a time; all of it at the end of the source."""

    def __init__(self, dataset: SavableDataset, *, select: Select, **settings: Any) -> None:
        """Take what chooses packs; `settings` are energon's, without its `pre_packer`."""
        self._select = select
        super().__init__(dataset, pre_packer=self._pack_buffer, **settings)

    def _pack_buffer(self, samples: list[Any]) -> list[list[Any]]:
        # energon calls with fewer samples than the buffer holds only when no more will come.
        is_full = len(samples) >= self.buffer_size
        packs, rest = self._select(samples, self.buffer_size // 2 if is_full else 0)
        # energon has emptied the reading buffer for this call, and fills it up afterwards.
        self._reading_buffer.extend(rest)
        return packs

    def _fill_reading_buffer(self, source_iter: Iterator[Any], log_progress: bool = False) -> bool:
        filled: bool = super()._fill_reading_buffer(source_iter, log_progress=False)
        return filled
