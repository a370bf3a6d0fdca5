"""The data module under all data modules: streams of training and validation, and their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from megatron.energon import SavableDataset

from ..errors import ConfigError
from .batch_stream import TrainStream, ValStream
from .blend import Blend
from .energon_loader import StartMethod
from .plan_batches import batches_of_rank
from .ranks import (
    DataParallel,
    check_batch_sizes,
    check_samples,
    check_shards,
    find_data_parallel,
)
from .resume import (
    STATE_VERSION,
    check_fingerprint,
    check_version,
    fingerprint,
    from_plain,
    to_plain,
)
from .skips import DEFAULT_MAX_SKIP_RATIO, SkipCounter, SkipReport, check_max_skip_ratio
from .stream_dataset import ReadConfig, build_train_dataset, build_val_dataset
from .task_encoder import MultiModalTaskEncoder

DEFAULT_PACKING_BUFFER = 1024
"""Samples among which packs are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How a data module streams, whatever its source."""

    encoder: MultiModalTaskEncoder
    val_encoder: MultiModalTaskEncoder
    read: ReadConfig
    """Of training."""
    read_val: ReadConfig
    """Of validation."""
    global_batch_size: int
    """Samples, or packs, of a step over all ranks."""
    train_split: str = "train"
    val_split: str = "val"
    max_skip_ratio: float = DEFAULT_MAX_SKIP_RATIO
    """Share of bad samples above which an error is raised."""
    data_parallel_rank: int | None = None
    data_parallel_size: int | None = None
    data_parallel_group: Any = None
    share_shards: bool = False
    """Let several readers read one shard."""
    start_method: StartMethod = "fork"
    """Of worker processes."""
    pin_memory: bool = True
    """Give batches in pinned memory, where there is a GPU."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work with a ConfigError."""
        check_max_skip_ratio(self.max_skip_ratio)
        for read, encoder in ((self.read, self.encoder), (self.read_val, self.val_encoder)):
            if read.num_workers < 0:
                raise ConfigError(f"num_workers={read.num_workers}: must be 0 or more")
            if encoder.packed_sequence and read.micro_batch_size != 1:
                raise ConfigError(
                    f"micro_batch_size={read.micro_batch_size} with packed_sequence: a batch is "
                    "one pack; use 1 and a larger packed_sequence_size"
                )


def read_configs(
    encoder: MultiModalTaskEncoder,
    val_encoder: MultiModalTaskEncoder,
    *,
    micro_batch_size: int,
    num_workers: int,
    num_val_workers: int | None,
    shuffle_buffer_size: int | None,
    packing_buffer_size: int | None,
    seed: int,
) -> tuple[ReadConfig, ReadConfig]:
    """The `read` and `read_val` of StreamSettings, from a data module's arguments.

    Raises:
        ConfigError: a buffer that holds nothing.
    """
    if packing_buffer_size is not None and packing_buffer_size < 1:
        raise ConfigError(
            f"packing_buffer_size={packing_buffer_size}: must be 1 or more; None for "
            f"{DEFAULT_PACKING_BUFFER}"
        )
    packing = packing_buffer_size or DEFAULT_PACKING_BUFFER
    read = ReadConfig(
        micro_batch_size=micro_batch_size,
        num_workers=num_workers,
        shuffle_buffer_size=shuffle_buffer_size,
        packing_buffer_size=packing if encoder.packed_sequence else None,
        seed=seed,
    )
    read_val = ReadConfig(
        micro_batch_size=micro_batch_size,
        num_workers=num_workers if num_val_workers is None else num_val_workers,
        packing_buffer_size=packing if val_encoder.packed_sequence else None,
        seed=seed,
    )
    return read, read_val


class StreamDataModule:
    """Training and validation streams over whatever a function opens."""

    def __init__(self, open_split: Callable[[str], Blend], settings: StreamSettings) -> None:
        """Take what to open; it is opened by the first dataloader.

        Args:
            open_split: gives the datasets of a split, or raises a NevaPrepError.
            settings: how to stream them.
        """
        self.settings = settings
        self._open_split = open_split
        self._train: TrainStream | None = None
        self._val: ValStream | None = None
        self._train_counter: SkipCounter | None = None
        self._saved: Mapping[str, Any] | None = None
        """The last state that was loaded or given; another training stream begins there."""

    def train_dataloader(self) -> TrainStream:
        """The endless, shuffled stream of this rank; the same one as long as it is open.

        After an error, or its own `close()`, another one goes on from the last state that was saved
        or loaded, or else from the start.

        Raises:
            ConfigError: no such split, too few shards for the readers, batch sizes that do not
                divide, or a loaded state of other settings.
            UntrustedDatasetError: the dataset asks for code to be run.
            ShardError: the dataset is missing or damaged.
        """
        if self._train is None or self._train.closed:
            self._train = self._open_train()
        return self._train

    def val_dataloader(self) -> ValStream:
        """Finite, unshuffled passes over the validation split; the same number on every rank.

        Raises:
            ConfigError, UntrustedDatasetError, ShardError: as `train_dataloader`.
        """
        if self._val is None:
            self._val = self._open_val()
        return self._val

    def state_dict(self) -> dict[str, Any]:
        """The place of the training stream of this rank, as plain data.

        Save one per data-parallel rank; tensor-, pipeline- and context-parallel ranks of the same
        data-parallel rank have the same.

        Raises:
            ConfigError: the stream was closed, so that its place is not known.
        """
        if self._train is None and self._saved is not None:
            return dict(self._saved)
        stream = self.train_dataloader() if self._train is None else self._train
        state = stream.state_dict()
        blend = self._open_split(self.settings.train_split)
        self._saved = {
            "version": STATE_VERSION,
            "fingerprint": self._fingerprint(blend, self.ranks()),
            "stream": to_plain(state),
        }
        return dict(self._saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved place: the next batch is the one that would have come then.

        Raises:
            ConfigError: it is no state, or one of other ranks, workers, batch sizes, dataset or
                encoder settings; the message says what differs.
        """
        check_version(state)
        blend, ranks = self._open_split(self.settings.train_split), self.ranks()
        check_fingerprint(state["fingerprint"], self._fingerprint(blend, ranks))
        self.close()
        self._saved = state
        self._train_counter = self._counter(blend, ranks)
        self._train_counter.load_state_dict(state["stream"]["skips"])

    def skip_report(self, split: str = "train") -> SkipReport:
        """What was delivered and what was skipped, by reason.

        Args:
            split: `train` for the stream since its first start, `val` for the last pass.
        """
        counter = self._train_counter if split == "train" else self._val and self._val.counter
        return counter.report() if counter else SkipCounter.empty_report()

    def ranks(self) -> DataParallel:
        """The data-parallel place of this process."""
        given = self.settings
        return find_data_parallel(
            given.data_parallel_rank, given.data_parallel_size, given.data_parallel_group
        )

    @property
    def num_micro_batches(self) -> int:
        """Batches that this rank gives to one step."""
        return check_batch_sizes(
            self.settings.read.micro_batch_size,
            self.settings.global_batch_size,
            self.ranks().size,
        )

    def close(self) -> None:
        """End the worker processes, also of passes; the next dataloader begins anew."""
        for stream in (self._train, self._val):
            if stream is not None:
                stream.close()
        self._train = self._val = None
        self._saved = None

    def teardown(self, stage: str | None = None) -> None:
        """NeMo's and Lightning's name for `close`."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_train(self) -> TrainStream:
        settings, ranks = self.settings, self.ranks()
        blend, read = self._open_split(settings.train_split), settings.read
        check_batch_sizes(read.micro_batch_size, settings.global_batch_size, ranks.size)
        for part in blend.parts:
            check_samples(part.name, part.samples, ranks.size, read.num_workers)
            if part.shards is not None and not settings.share_shards:
                check_shards(part.name, part.shards, part.samples, ranks.size, read.num_workers)
        self._train_counter = self._counter(blend, ranks)
        encoder = settings.encoder.for_stream(_share(blend, ranks, read.num_workers))
        dataset = build_train_dataset(blend, encoder, read, ranks)
        stream = TrainStream(
            blend.name,
            dataset,
            self._train_counter,
            start_method=settings.start_method,
            pin_memory=settings.pin_memory,
        )
        if self._saved is not None:
            stream.load_state_dict(from_plain(self._saved["stream"]))
        return stream

    def _open_val(self) -> ValStream:
        settings, ranks = self.settings, self.ranks()
        blend, read = self._open_split(settings.val_split), settings.read_val
        name = f"{blend.name}, split {settings.val_split}"
        check_samples(name, blend.samples, ranks.size, read.num_workers)

        def build() -> SavableDataset:
            encoder = settings.val_encoder.for_stream(_share(blend, ranks, read.num_workers))
            return build_val_dataset(blend, encoder, read, ranks)

        return ValStream(
            blend.name,
            build,
            lambda: self._counter(blend, ranks),
            batches_of_rank(blend, settings.val_encoder, read, ranks),
            ignore_index=settings.val_encoder.rules.config.ignore_place_holder,
            start_method=settings.start_method,
            pin_memory=settings.pin_memory,
        )

    def _counter(self, blend: Blend, ranks: DataParallel) -> SkipCounter:
        return SkipCounter(
            name=blend.name,
            max_ratio=self.settings.max_skip_ratio,
            epoch_samples=-(-blend.samples // ranks.size),
        )

    def _fingerprint(self, blend: Blend, ranks: DataParallel) -> dict[str, Any]:
        settings = self.settings
        return fingerprint(
            blend,
            settings.read,
            ranks,
            global_batch_size=settings.global_batch_size,
            tokenizer=settings.encoder.rules.tokenizer,
            encoder=settings.encoder.describe(),
        )


def _share(blend: Blend, ranks: DataParallel, num_workers: int) -> int:
    """Most samples of an epoch that one worker reads."""
    return -(-blend.samples // (ranks.size * max(1, num_workers)))
