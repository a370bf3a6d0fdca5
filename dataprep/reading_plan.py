"""How a dataset divides among ranks and workers, before anyone pays for the GPUs."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..loaders.dataset_kind import check_typed_dataset
from ..loaders.ranks import check_batch_sizes, check_samples, check_shards, split_evenly
from ..loaders.remote import is_remote, name_of
from ..loaders.remote_cache import cached_dataset
from ..loaders.remote_shard import shard_size
from .folder_kind import refuse_blend

SCHEMA_VERSION = 1
_READ_IN_ORDER = ("val", "test")
"""Splits that are not shuffled: there it does no harm that readers share a shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPlan:
    """What each rank reads in an epoch of one split."""

    split: str
    samples: int
    shards: int
    bytes: int
    """Of the split's tars."""
    ranks: int
    workers: int
    """Of each rank."""
    samples_per_rank: tuple[int, int]
    """Fewest and most."""
    uneven_samples: int
    """By how many samples the ranks' shares together fall short of equal ones."""
    steps_per_epoch: int
    """Optimizer steps in which the fullest rank has read its share, unpacked."""
    megabytes_per_second: float
    """That one rank must read at the given speed."""

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def plan_reading(
    dataset: str | os.PathLike[str],
    *,
    split: str,
    ranks: int,
    workers: int,
    micro_batch_size: int,
    global_batch_size: int,
    samples_per_second: float,
) -> ReadingPlan:
    """Divide a split as energon will.

    Args:
        dataset: a converted or prepared dataset, or its address.
        split: name of the split.
        ranks: data-parallel.
        workers: of each rank; 0 reads in the rank's own process.
        micro_batch_size: samples of one batch.
        global_batch_size: samples of a step, over all ranks.
        samples_per_second: what one rank trains on.

    Raises:
        ConfigError: no such split, batch sizes that do not divide, or fewer shards or samples than
            readers; the message has the numbers that would work.
        ShardError: there is no finished dataset.
        RemoteError: the service at an address refuses, or cannot be reached.
    """
    if ranks < 1 or workers < 0:
        raise ConfigError(f"--gpus {ranks} --workers {workers}: give 1 or more, and 0 or more")
    if not 0 < samples_per_second < float("inf"):
        raise ConfigError(f"--samples-per-second {samples_per_second:g}: give a number above 0")
    folder = cached_dataset(dataset) if is_remote(dataset) else Path(dataset)
    name = name_of(dataset)
    refuse_blend(folder)
    trusted, _ = check_typed_dataset(folder)
    if split not in trusted.splits:
        raise ConfigError(f"{name}: has no split {split!r}, only {', '.join(trusted.splits)}")
    shards = trusted.splits[split]
    samples = sum(trusted.shard_samples[shard] for shard in shards)
    micro_batches = check_batch_sizes(micro_batch_size, global_batch_size, ranks)
    check_samples(name, samples, ranks, workers)
    if split not in _READ_IN_ORDER:
        check_shards(name, len(shards), samples, ranks, workers)
    shares = split_evenly(samples, ranks, max(1, workers))
    size = sum(shard_size(folder / shard) for shard in shards)
    return ReadingPlan(
        split=split,
        samples=samples,
        shards=len(shards),
        bytes=size,
        ranks=ranks,
        workers=workers,
        samples_per_rank=(min(shares), max(shares)),
        uneven_samples=max(shares) * ranks - samples,
        steps_per_epoch=-(-max(shares) // (micro_batches * micro_batch_size)),
        megabytes_per_second=round(samples_per_second * size / samples / 1e6, 3),
    )
