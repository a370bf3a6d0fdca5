"""energon's packing without its progress bar, which it draws wherever standard error goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron.energon.wrappers import PackingDataset


class QuietPackingDataset(PackingDataset):  # type: ignore[misc]
    """Fills its first buffer without drawing."""

    def _fill_reading_buffer(self, source_iter: Iterator[Any], log_progress: bool = False) -> bool:
        filled: bool = super()._fill_reading_buffer(source_iter, log_progress=False)
        return filled
