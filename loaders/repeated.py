"""A dataset that an epoch of a blend has a broken number of times: 1.5 times, or 0.5 times.

energon's own repetition drops what its fraction leaves of a pass: 1.5 times are 1.1 from the second
epoch on, and a place behind the fraction is not found again. Here each epoch goes on where the last
one stopped, so that all samples come equally often:

    0.5 times:  first half │ second half │ first half of the next pass …
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from megatron.energon import SavableDataset
from megatron.energon.flavors.base_dataset import BaseCoreDatasetFactory
from megatron.energon.wrappers.base import BaseWrapperDataset

_ROUNDING = 1e-9
"""What a product of numbers like 0.1 may be off."""


class RepeatedFactory(BaseCoreDatasetFactory):  # type: ignore[misc]
    """A dataset to open, as long as its repetitions make it."""

    def __init__(self, factory: Any, repetitions: float) -> None:
        """Take what opens the dataset once."""
        self._factory = factory
        self._repetitions = repetitions
        self.__sample_type__ = factory.__sample_type__
        self.paths = factory.paths
        self.subflavors = factory.subflavors

    def __len__(self) -> int:
        return max(1, round(len(self._factory) * self._repetitions))

    def build(self, worker_rotation_offset: int = 0) -> RepeatedDataset:
        """The dataset for the readers of one rank."""
        return RepeatedDataset(self._factory.build(worker_rotation_offset), self._repetitions)

    def as_file_store(self) -> Any:
        """The dataset's own."""
        return self._factory.as_file_store()


class RepeatedDataset(BaseWrapperDataset):  # type: ignore[misc]
    """Each iteration is one epoch of the blend."""

    _savable_fields = ("_epoch", "_given")

    def __init__(self, dataset: SavableDataset, repetitions: float) -> None:
        """Take a dataset whose iteration is a pass, or the rest of one that was left."""
        super().__init__(dataset, worker_config=dataset.worker_config)
        self._repetitions = repetitions
        self.reset_state_own()

    def reset_state_own(self) -> None:
        """Go to the begin of the first epoch."""
        self._epoch = 0
        self._given = 0

    def len_worker(self, worker_idx: int | None = None) -> int:
        """Most samples of an epoch of one worker."""
        samples = int(self.dataset.len_worker(worker_idx))
        return math.ceil(samples * self._repetitions - _ROUNDING)

    def __iter__(self) -> Iterator[Any]:
        due = self._until(self._epoch + 1) - self._until(self._epoch)
        while self._given < due:
            for sample in self.dataset:
                self._given += 1
                yield sample
                if self._given >= due:
                    break
        self._epoch += 1
        self._given = 0

    def config(self) -> dict[str, Any]:
        """For energon's log."""
        return {
            "type": type(self).__qualname__,
            "repetitions": self._repetitions,
            "dataset": self.dataset.config(),
        }

    def _until(self, epochs: int) -> int:
        """Samples of this worker in so many epochs."""
        samples = int(self.dataset.len_worker())
        return math.floor(epochs * self._repetitions * samples + _ROUNDING)
