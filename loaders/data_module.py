"""NeMo's energon data module: a dataset on disk becomes the batches of training and validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import ConfigError
from .batch_stream import TrainStream, ValStream
from .blend import Blend, DatasetPath, open_blend
from .config import MultiModalSampleConfig
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


class EnergonMultiModalDataModule:
    """Streams of batches from a dataset that convert or `energon prepare` made.

    Works in a plain loop, and in Lightning, which needs no base class for it:

        data = EnergonMultiModalDataModule(path, tokenizer, image_processor, ...)
        for batch in data.train_dataloader():
            ...
            torch.save(data.state_dict(), ...)
    """

    def __init__(
        self,
        path: DatasetPath,
        tokenizer: Any = None,
        image_processor: Any = None,
        seq_length: int = 2048,
        micro_batch_size: int = 1,
        global_batch_size: int = 1,
        num_workers: int = 1,
        num_val_workers: int | None = None,
        pin_memory: bool = True,
        shuffle_buffer_size: int | None = 100,
        multimodal_sample_config: MultiModalSampleConfig | None = None,
        task_encoder: MultiModalTaskEncoder | None = None,
        packing_buffer_size: int | None = None,
        validation_task_encoder: MultiModalTaskEncoder | None = None,
        *,
        train_split: str = "train",
        val_split: str = "val",
        seed: int = 0,
        max_skip_ratio: float = DEFAULT_MAX_SKIP_RATIO,
        data_parallel_rank: int | None = None,
        data_parallel_size: int | None = None,
        data_parallel_group: Any = None,
        share_shards: bool = False,
        start_method: StartMethod = "fork",
        trust_dataset_code: bool = False,
    ) -> None:
        """Take the settings; the dataset is opened by the first dataloader.

        Args:
            path: a dataset's folder, {folder: weight} for a blend, or the file of an energon
                metadataset.
            tokenizer: of transformers; not needed with a task encoder.
            image_processor: what MultiModalTaskEncoder takes; not needed with a task encoder.
            seq_length: most positions of a sample, image embeddings included.
            micro_batch_size: samples of a batch; 1 when packed, where a batch is one pack.
            global_batch_size: samples, or packs, of a step over all ranks.
            num_workers: processes that read for this rank; 0 reads in this process.
            num_val_workers: of validation; `num_workers` unless given.
            pin_memory: give batches in pinned memory, where there is a GPU.
            shuffle_buffer_size: samples among which the next one is drawn; None keeps the order.
            multimodal_sample_config: of the default task encoder.
            task_encoder: MultiModalTaskEncoder with these settings unless given.
            packing_buffer_size: samples among which packs are chosen; 1024 unless given.
            validation_task_encoder: `task_encoder` unless given.
            train_split: name of the split.
            val_split: name of the split.
            seed: of the shuffling.
            max_skip_ratio: share of bad samples above which an error is raised.
            data_parallel_rank: with `data_parallel_size`; otherwise from Megatron's parallel_state
                or torch.distributed.
            data_parallel_size: number of ranks that read different samples.
            data_parallel_group: their torch.distributed group.
            share_shards: let several readers read one shard.
            start_method: of worker processes.
            trust_dataset_code: run the `sample_loader.py` of a dataset.

        Raises:
            ConfigError: the settings cannot work together.
        """
        if task_encoder is None:
            if tokenizer is None or image_processor is None:
                raise ConfigError(
                    "give a tokenizer and an image_processor, or a task_encoder that has them"
                )
            task_encoder = MultiModalTaskEncoder(
                tokenizer, image_processor, multimodal_sample_config, seq_length=seq_length
            )
        check_max_skip_ratio(max_skip_ratio)
        for name, workers in (("num_workers", num_workers), ("num_val_workers", num_val_workers)):
            if workers is not None and workers < 0:
                raise ConfigError(f"{name}={workers}: must be 0 or more")
        self.path = path
        self.seq_length = seq_length
        self.micro_batch_size = micro_batch_size
        self.global_batch_size = global_batch_size
        self.task_encoder = task_encoder
        self.validation_task_encoder = validation_task_encoder or task_encoder
        self.train_split, self.val_split = train_split, val_split
        self.max_skip_ratio = max_skip_ratio
        self.share_shards = share_shards
        self.trust_dataset_code = trust_dataset_code
        self._ranks_given = (data_parallel_rank, data_parallel_size, data_parallel_group)
        self._loader_options: dict[str, Any] = {
            "start_method": start_method,
            "pin_memory": pin_memory,
        }
        packing = packing_buffer_size or DEFAULT_PACKING_BUFFER
        self._read = ReadConfig(
            micro_batch_size=micro_batch_size,
            num_workers=num_workers,
            shuffle_buffer_size=shuffle_buffer_size,
            packing_buffer_size=packing if task_encoder.packed_sequence else None,
            seed=seed,
        )
        self._read_val = replace(
            self._read,
            num_workers=num_workers if num_val_workers is None else num_val_workers,
            shuffle_buffer_size=None,
            packing_buffer_size=packing if self.validation_task_encoder.packed_sequence else None,
        )
        self._train: TrainStream | None = None
        self._val: ValStream | None = None
        self._train_counter: SkipCounter | None = None
        self._saved: Mapping[str, Any] | None = None
        _check_micro_batch(self.task_encoder, micro_batch_size)

    def train_dataloader(self) -> TrainStream:
        """The endless, shuffled stream of this rank; the same one until `close()`.

        Raises:
            ConfigError: no such split, too few shards for the readers, batch sizes that do not
                divide, or a loaded state of other settings.
            UntrustedDatasetError: the dataset asks for code to be run.
            ShardError: the dataset is missing or damaged.
        """
        if self._train is None:
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
        """
        if self._train is None and self._saved is not None:
            return dict(self._saved)
        state = self.train_dataloader().state_dict()
        return {
            "version": STATE_VERSION,
            "fingerprint": self._fingerprint(self._open(self.train_split), self.ranks()),
            "stream": to_plain(state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved place: the next batch is the one that would have come then.

        Raises:
            ConfigError: it is no state, or one of other ranks, workers, batch sizes, dataset or
                encoder settings; the message says what differs.
        """
        check_version(state)
        now = self._fingerprint(self._open(self.train_split), self.ranks())
        check_fingerprint(state["fingerprint"], now)
        self.close()
        self._saved = state

    def skip_report(self, split: str = "train") -> SkipReport:
        """What was delivered and what was skipped, by reason.

        Args:
            split: `train` for the stream since its first start, `val` for the last pass.
        """
        counter = self._train_counter if split == "train" else self._val and self._val.counter
        return counter.report() if counter else SkipCounter.empty_report()

    def ranks(self) -> DataParallel:
        """The data-parallel place of this process."""
        return find_data_parallel(*self._ranks_given)

    @property
    def num_micro_batches(self) -> int:
        """Batches that this rank gives to one step."""
        return check_batch_sizes(self.micro_batch_size, self.global_batch_size, self.ranks().size)

    def close(self) -> None:
        """End the worker processes; the next dataloader begins anew."""
        if self._train is not None:
            self._train.close()
        self._train = self._val = None
        self._saved = None

    def teardown(self, stage: str | None = None) -> None:
        """Lightning's name for `close`."""
        self.close()

    def __enter__(self) -> EnergonMultiModalDataModule:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, split: str) -> Blend:
        return open_blend(self.path, split, trust_dataset_code=self.trust_dataset_code)

    def _open_train(self) -> TrainStream:
        blend, ranks = self._open(self.train_split), self.ranks()
        check_batch_sizes(self.micro_batch_size, self.global_batch_size, ranks.size)
        workers = self._read.num_workers
        for part in blend.parts:
            name = f"{part.dataset.path}, split {part.split}"
            check_samples(name, part.samples, ranks.size, workers)
            if not self.share_shards:
                check_shards(name, part.shards, part.samples, ranks.size, workers)
        self._train_counter = self._counter(blend, ranks)
        encoder = self.task_encoder.for_stream(_share(blend, ranks, workers))
        dataset = build_train_dataset(blend, encoder, self._read, ranks)
        stream = TrainStream(blend.name, dataset, self._train_counter, **self._loader_options)
        if self._saved is not None:
            stream.load_state_dict(from_plain(self._saved["stream"]))
            self._saved = None
        return stream

    def _open_val(self) -> ValStream:
        blend, ranks = self._open(self.val_split), self.ranks()
        workers = self._read_val.num_workers
        check_samples(f"{blend.name}, split {self.val_split}", blend.samples, ranks.size, workers)
        encoder = self.validation_task_encoder
        _check_micro_batch(encoder, self.micro_batch_size)

        def build() -> Any:
            twin = encoder.for_stream(_share(blend, ranks, workers))
            return build_val_dataset(blend, twin, self._read_val, ranks)

        return ValStream(
            blend.name,
            build,
            lambda: self._counter(blend, ranks),
            batches_of_rank(blend, encoder, self._read_val, ranks),
            **self._loader_options,
        )

    def _counter(self, blend: Blend, ranks: DataParallel) -> SkipCounter:
        return SkipCounter(
            name=blend.name,
            max_ratio=self.max_skip_ratio,
            epoch_samples=-(-blend.samples // ranks.size),
        )

    def _fingerprint(self, blend: Blend, ranks: DataParallel) -> dict[str, Any]:
        return fingerprint(
            blend,
            self._read,
            ranks,
            global_batch_size=self.global_batch_size,
            tokenizer=self.task_encoder.rules.tokenizer,
            encoder=self.task_encoder.describe(),
        )


def _share(blend: Blend, ranks: DataParallel, num_workers: int) -> int:
    """Most samples of an epoch that one worker reads."""
    return -(-blend.samples // (ranks.size * max(1, num_workers)))


def _check_micro_batch(encoder: MultiModalTaskEncoder, micro_batch_size: int) -> None:
    if encoder.packed_sequence and micro_batch_size != 1:
        raise ConfigError(
            f"micro_batch_size={micro_batch_size} with packed_sequence: a batch is one pack; use 1 "
            "and a larger packed_sequence_size"
        )
