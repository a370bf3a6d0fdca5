"""The samples of a dataset, one epoch or endlessly, through megatron-energon."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    WorkerConfig,
    get_loader,
)
from megatron.energon.errors import reraise_exception
from megatron.energon.metadataset.loader_interface import LoadedDataset

from ..errors import ConfigError, ShardError
from .dataset_kind import CRUDE
from .decode import DEFAULT_MAX_PIXELS
from .energon_loader import as_ours
from .metadataset import check_metadataset
from .remote import is_remote
from .remote_cache import cached_dataset
from .sample import ConversationSample, FailedSample, cook_or_fail
from .trust import TrustedDataset, check_dataset
from .webdataset import CheckedWebdataset

_PARALLEL_SHARDS = 16
"""Shards that a worker reads in turns when it shuffles."""


class ConversationTaskEncoder(DefaultTaskEncoder):  # type: ignore[misc]
    """Hands the cooked samples on as they are."""

    cookers = (Cooker(cook_or_fail),)
    # energon's own decoder would unpickle members that are named *.pkl or *.pth.
    decoder = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """In which order and with how many processes a stream reads."""

    shuffle_buffer_size: int | None = None
    """Samples among which the next one is drawn; None reads in the order of the shards."""
    num_workers: int = 0
    """Processes; 0 reads in this one."""
    repeat: bool = False
    """Whether to go on endlessly."""
    seed: int = 0
    """Of the shuffling; the same seed and number of workers give the same order."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Largest width x height that `decode_images` of a sample lets through."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work with a ConfigError."""
        if self.num_workers < 0:
            raise ConfigError(f"num_workers={self.num_workers}: must be 0 or more")
        if self.shuffle_buffer_size is not None and self.shuffle_buffer_size < 1:
            raise ConfigError(
                f"shuffle_buffer_size={self.shuffle_buffer_size}: must be 1 or more; "
                "None reads in order"
            )


def open_dataset(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    shuffle_buffer_size: int | None = None,
    num_workers: int = 0,
    repeat: bool = False,
    seed: int = 0,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> ConversationStream:
    """The samples of one split of a dataset.

    By default an iteration yields every sample once, in an order that is always the same. Nothing
    is skipped: a broken sample, or a count that is not the index's, raises.

    Args:
        path: what `neva-prep convert` wrote: a folder, or an address such as `s3://bucket/shards`.
        split: name of the split.
        shuffle_buffer_size: shuffle shards, and samples through a buffer of this size.
        num_workers: processes that read.
        repeat: go on endlessly instead of for one epoch. Each worker repeats its own share, so
            with several workers the samples of a smaller share come somewhat more often.
        seed: of the shuffling.
        max_pixels: largest width x height that `decode_images` of a sample lets through.

    Raises:
        ConfigError: no such split, an empty split, or settings that cannot work.
        UntrustedDatasetError: the dataset's metadata asks energon to run code or to read elsewhere.
        ShardError: there is no finished dataset at the path, or its metadata is damaged.
        RemoteError: the service at an address refuses, or cannot be reached.

    Example:
        >>> for sample in open_dataset("shards/"):            # doctest: +SKIP
        ...     print(sample.key, sample.messages, sample.decode_images())
    """
    config = StreamConfig(
        shuffle_buffer_size=shuffle_buffer_size,
        num_workers=num_workers,
        repeat=repeat,
        seed=seed,
        max_pixels=max_pixels,
    )
    return ConversationStream(_check(path), split, config)


class ConversationStream:
    """Iterates over the samples of a split; every `iter()` begins the same epoch again.

    Leaving the loop, or closing the iterator, ends the worker processes.
    """

    def __init__(self, dataset: TrustedDataset, split: str, config: StreamConfig) -> None:
        self._dataset = dataset
        self._split = split
        self._config = config
        self._samples = _count_samples(dataset, split)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._samples

    def __iter__(self) -> Iterator[ConversationSample]:
        """Yield the samples.

        Raises:
            RecordError: a sample's members do not fit together; the message has its key.
            ShardError: a shard cannot be read, or the epoch had fewer or more samples than the
                index says.
        """
        count = 0
        for sample in self._read():
            if isinstance(sample, FailedSample):
                raise sample.error
            count += 1
            sample.max_pixels = self._config.max_pixels
            yield sample
        if count != self._samples:
            raise ShardError(
                f"{self._dataset.path}: split {self._split!r} gave {count} samples, its index says "
                f"{self._samples}; run neva-prep verify {self._dataset.path}"
            )

    def _read(self) -> Iterator[ConversationSample | FailedSample]:
        """What energon reads, with its errors turned into ours."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*no accelerator")
            loader = get_loader(self._build(), watchdog_timeout_seconds=None)
            samples = iter(loader)
        try:
            yield from samples
        except Exception as error:
            ours = as_ours(f"{self._dataset.path}, split {self._split}", error)
            if ours is error:
                raise
            # Without its traceback, which would keep the worker processes alive with the error.
            raise ours from error.with_traceback(None)
        finally:
            # The workers end with the last reference to the loader, and take seconds to end later.
            del loader, samples

    def _build(self) -> Any:
        """The dataset in energon's terms, from checked values: energon does not read the YAML."""
        config = self._config
        workers = WorkerConfig(
            rank=0,
            world_size=1,
            num_workers=config.num_workers,
            seed_offset=config.seed,
            global_error_handler=reraise_exception,
        )
        shuffle = config.shuffle_buffer_size is not None
        factory = CheckedWebdataset(
            self._dataset,
            CRUDE,
            split=self._split,
            training=True,
            worker_config=workers,
            shuffle_over_epochs=1 if shuffle else None,
            parallel_shard_iters=_PARALLEL_SHARDS if shuffle else 1,
        )
        return ConversationTaskEncoder().build_train_datasets(
            datasets=[LoadedDataset(dataset=factory)],
            worker_config=workers,
            batch_size=None,
            shuffle_buffer_size=config.shuffle_buffer_size,
            repeat=config.repeat,
        )


def _check(path: str | os.PathLike[str]) -> TrustedDataset:
    if is_remote(path):
        return check_dataset(cached_dataset(path))
    if Path(path).is_file():
        check_metadataset(path)
        raise ConfigError(
            f"{path}: is a metadataset; open_dataset reads one dataset: give one of its folders"
        )
    return check_dataset(path)


def _count_samples(dataset: TrustedDataset, split: str) -> int:
    filled = ", ".join(name for name, shards in dataset.splits.items() if shards) or "none"
    if split not in dataset.splits:
        raise ConfigError(f"{dataset.path}: has no split {split!r}; splits with samples: {filled}")
    shards = dataset.splits[split]
    samples = sum(dataset.shard_samples[name] for name in shards)
    left_out = {name.rpartition("/")[0] for name in dataset.excluded_samples}
    if left_out.intersection(shards):
        raise ConfigError(
            f"{dataset.path}: split {split!r} leaves single samples out ('exclude' in split.yaml), "
            "so nothing could tell a lost sample from an excluded one; convert without them"
        )
    if samples == 0:
        raise ConfigError(f"{dataset.path}: split {split!r} is empty; with samples: {filled}")
    return samples
