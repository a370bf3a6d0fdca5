"""Samples that are made one by one from their number, as energon reads them.

It stands beside energon's own reader of shards, so that shuffling over ranks and workers, packing,
blending and exact resuming are the same for sources without shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from megatron.energon import Sample, SavableDataset, WorkerConfig
from megatron.energon.flavors.base_dataset import BaseCoreDatasetFactory
from megatron.energon.flavors.webdataset.sharder import Sharder


class SampleSource(Protocol):
    """Samples by their number."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, index: int) -> Sample:
        """A sample, or a FailedSample; its restore key is set by the reader."""
        ...


class IndexedFactory(BaseCoreDatasetFactory):  # type: ignore[misc]
    """The samples of a source, divided among all readers of all ranks."""

    __sample_type__ = Sample

    def __init__(
        self, source: SampleSource, workers: WorkerConfig, *, seed: int, shuffle: bool
    ) -> None:
        """Take a source; nothing is read yet."""
        self.source = source
        self.paths: list[Any] = []
        self.subflavors: dict[str, Any] = {}
        self._workers = workers
        self._seed = seed
        self._shuffle = shuffle

    def __len__(self) -> int:
        return len(self.source)

    def build(self, worker_rotation_offset: int = 0) -> IndexedDataset:
        """The dataset for the readers of one rank."""
        bounds = Sharder.split_samples_to_workers(
            0, len(self.source), self._workers, rotation_offset=worker_rotation_offset
        )
        return IndexedDataset(
            self.source, bounds, self._workers, seed=self._seed if self._shuffle else None
        )

    def as_file_store(self) -> Any:
        """There are no files to look into."""
        return None


class IndexedDataset(SavableDataset):  # type: ignore[misc]
    """An epoch of one reader: its stretch of the order of all samples.

    The order is drawn anew for each epoch from the seed and the epoch alone, so the readers of all
    ranks share it and divide it among them.
    """

    _savable_fields = ("_epoch", "_place")

    def __init__(
        self,
        source: SampleSource,
        bounds: Any,
        worker_config: WorkerConfig,
        *,
        seed: int | None,
    ) -> None:
        """Take a source and where each worker's stretch begins and ends."""
        super().__init__(worker_config)
        self._source = source
        self._bounds = [int(bound) for bound in bounds]
        self._seed = seed
        self.reset_state_own()

    def reset_state_own(self) -> None:
        """Go to the begin of the first epoch."""
        self._epoch = 0
        self._place = 0

    def len_worker(self, worker_idx: int | None = None) -> int:
        """Samples of an epoch of one worker."""
        worker = self.worker_config.rank_worker_id() if worker_idx is None else worker_idx
        return self._bounds[worker + 1] - self._bounds[worker]

    def worker_has_samples(self) -> bool:
        """Whether this worker has any."""
        return self.len_worker() > 0

    def __iter__(self) -> Iterator[Sample]:
        """The rest of the epoch; the next iteration is the next epoch."""
        start = self._bounds[self.worker_config.rank_worker_id()]
        order = self._order()
        while self._place < self.len_worker():
            index = start + self._place
            self._place += 1
            yield self._read(index if order is None else int(order[index]))
        self._epoch += 1
        self._place = 0

    def can_restore_sample(self) -> bool:
        """A sample is known by its number."""
        return True

    def assert_can_restore(self) -> None:
        """It can."""

    def restore_sample(self, restore_key: tuple[Any, ...]) -> Sample:
        """The sample of a key."""
        return self._read(restore_key[1])

    def config(self) -> dict[str, Any]:
        """For energon's log."""
        return {"type": type(self).__qualname__, "bounds": self._bounds, "seed": self._seed}

    def _read(self, index: int) -> Sample:
        sample = self._source.read(index)
        sample.__restore_key__ = (type(self).__name__, index)
        return sample

    def _order(self) -> npt.NDArray[np.int64] | None:
        if self._seed is None:
            return None
        return np.random.default_rng([self._seed, self._epoch]).permutation(len(self._source))
