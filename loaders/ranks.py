"""Which share of the data this process reads: its data-parallel rank, from whoever knows it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataParallel:
    """The place of this process among those that read different samples."""

    rank: int = 0
    size: int = 1
    group: Any = None
    """The torch.distributed group of these processes; None if there is none."""

    def __post_init__(self) -> None:
        """Refuse a rank that does not exist with a ConfigError."""
        if not 0 <= self.rank < self.size:
            raise ConfigError(
                f"data_parallel_rank={self.rank} of data_parallel_size={self.size}: ranks are 0 to "
                "size - 1"
            )


def find_data_parallel(
    rank: int | None = None, size: int | None = None, group: Any = None
) -> DataParallel:
    """The data-parallel rank of this process.

    In this order: what is given; Megatron's parallel_state, if it was imported and initialized (its
    pure data-parallel group, in which tensor-, pipeline- and context-parallel ranks read the same
    samples); torch.distributed, if it was initialized; a single rank.

    Args:
        rank: given together with `size`, or not at all.
        size: given together with `rank`, or not at all.
        group: the group that rank and size are taken from, or that goes with them.

    Raises:
        ConfigError: only one of rank and size is given, or they make no sense.
    """
    if (rank is None) != (size is None):
        raise ConfigError(
            f"data_parallel_rank={rank}, data_parallel_size={size}: give both, or neither to take "
            "them from Megatron's parallel_state or torch.distributed"
        )
    if rank is not None and size is not None:
        return DataParallel(rank=rank, size=size, group=group)
    # Importing either here would cost seconds; where nobody has imported it, it is not initialized.
    state = sys.modules.get("megatron.core.parallel_state")
    if group is None and state is not None and state.model_parallel_is_initialized():
        return DataParallel(
            rank=state.get_data_parallel_rank(),
            size=state.get_data_parallel_world_size(),
            group=state.get_data_parallel_group(),
        )
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return DataParallel(
            rank=distributed.get_rank(group), size=distributed.get_world_size(group), group=group
        )
    if group is not None:
        raise ConfigError(
            "data_parallel_group is given but torch.distributed is not initialized; call "
            "init_process_group first, or give data_parallel_rank and data_parallel_size"
        )
    return DataParallel()


def check_batch_sizes(micro_batch_size: int, global_batch_size: int, ranks: int) -> int:
    """Micro batches that each rank gives to one step.

    Raises:
        ConfigError: the global batch is no multiple of micro batch x ranks.
    """
    if micro_batch_size < 1 or global_batch_size < 1:
        raise ConfigError(
            f"micro_batch_size={micro_batch_size}, global_batch_size={global_batch_size}: "
            "must be 1 or more"
        )
    together = micro_batch_size * ranks
    if global_batch_size % together:
        near = max(1, round(global_batch_size / together)) * together
        raise ConfigError(
            f"global_batch_size={global_batch_size} is no multiple of micro_batch_size="
            f"{micro_batch_size} x {ranks} data-parallel ranks; for example {near} is"
        )
    return global_batch_size // together


def check_shards(name: str, shards: int, samples: int, ranks: int, num_workers: int) -> None:
    """Refuse a training split that has fewer shards than there are readers.

    Readers that share a shard would read it at several places at once, which is slow on disks and
    object stores, and their shuffling would draw from a part of a shard only.

    Args:
        name: of the dataset, for messages.
        shards: of the split.
        samples: of the split.
        ranks: data-parallel.
        num_workers: of each rank; 0 reads in the rank's own process.

    Raises:
        ConfigError: the message has the numbers that would work.
    """
    readers = ranks * max(1, num_workers)
    if shards >= readers:
        return
    ways = []
    if shards >= ranks:
        ways.append(f"num_workers={shards // ranks}")
    if samples >= readers:
        ways.append(f"converting again with --shard-count {samples // readers} or less")
    ways.append("share_shards=True, if slow reading does not matter")
    raise ConfigError(
        f"{name}: has {shards} shards for {readers} readers ({ranks} ranks x "
        f"{max(1, num_workers)} workers); {', or '.join(ways)}"
    )


def check_samples(name: str, samples: int, ranks: int, num_workers: int) -> None:
    """Refuse a split in which some reader would have no sample.

    Raises:
        ConfigError: the message has the numbers that would work.
    """
    readers = ranks * max(1, num_workers)
    if samples >= readers:
        return
    way = (
        f"use num_workers={samples // ranks} for it"
        if samples >= ranks
        else f"use {samples} ranks or fewer, or add samples"
    )
    raise ConfigError(
        f"{name}: has {samples} samples for {readers} readers ({ranks} ranks x "
        f"{max(1, num_workers)} workers), so some would read nothing; {way}"
    )


def split_evenly(samples: int, ranks: int, workers: int) -> list[int]:
    """Samples of each rank as energon deals them out.

    All readers get as many; what is left over goes to one after the other, as far apart as it goes.

    Args:
        samples: of the split.
        ranks: data-parallel.
        workers: of each rank, 1 or more.

    Example:
        >>> split_evenly(9, ranks=3, workers=2)
        [4, 3, 2]
    """
    least, left_over = divmod(samples, ranks * workers)
    lucky = [reader // workers for reader in _far_apart(range(ranks * workers))[:left_over]]
    return [least * workers + lucky.count(rank) for rank in range(ranks)]


def _far_apart(readers: Sequence[int]) -> list[int]:
    """One of the first half, one of the second, each half in such an order itself."""
    if len(readers) < 3:
        return list(readers)
    middle = len(readers) // 2
    halves = _far_apart(readers[:middle]), _far_apart(readers[middle:])
    return [reader for pair in zip_longest(*halves) for reader in pair if reader is not None]
