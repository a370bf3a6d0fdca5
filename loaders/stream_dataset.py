"""A blend as energon's chain of datasets: shards become batches, endlessly or for one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron.energon import SavableDataset, WorkerConfig
from megatron.energon.errors import reraise_exception
from megatron.energon.metadataset.loader_interface import DatasetBlendMode, LoadedDataset

from .blend import Blend, Mode
from .last_note import LastNoteDataset
from .ranks import DataParallel
from .repeated import RepeatedFactory
from .task_encoder import MultiModalTaskEncoder

_MODES = {
    "single": DatasetBlendMode.NONE,
    "weights": DatasetBlendMode.DATASET_WEIGHT,
    "repetitions": DatasetBlendMode.SAMPLE_REPETITIONS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConfig:
    """How a split is read."""

    micro_batch_size: int
    """Samples in a batch; a packed batch is one pack."""
    num_workers: int
    """Processes of this rank; 0 reads in the rank's own."""
    shuffle_buffer_size: int | None = None
    """Samples among which the next one is drawn; None keeps the order of the shards."""
    packing_buffer_size: int | None = None
    """Samples among which packs are chosen; None where nothing is packed."""
    seed: int = 0
    """Of the shuffling."""


def build_train_dataset(
    blend: Blend, encoder: MultiModalTaskEncoder, config: ReadConfig, ranks: DataParallel
) -> SavableDataset:
    """Endless batches of this rank, shuffled if the config has a buffer for it."""
    workers = _worker_config(config, ranks)
    return encoder.build_train_datasets(
        datasets=_open(blend, workers, config, training=True),
        worker_config=workers,
        batch_size=_batch_size(encoder, config),
        packing_buffer_size=config.packing_buffer_size,
        shuffle_buffer_size=config.shuffle_buffer_size,
        blend_mode=_MODES[blend.mode],
        repeat=True,
    )


def build_val_dataset(
    blend: Blend, encoder: MultiModalTaskEncoder, config: ReadConfig, ranks: DataParallel
) -> SavableDataset:
    """One pass over this rank's share, in the order of the shards; last_note.py ends it."""
    workers = _worker_config(config, ranks)
    batches = encoder.build_val_datasets(
        datasets=_open(blend, workers, config, training=False),
        worker_config=workers,
        batch_size=_batch_size(encoder, config),
        packing_buffer_size=config.packing_buffer_size,
    )
    return LastNoteDataset(batches, encoder.drain_note)


def _batch_size(encoder: MultiModalTaskEncoder, config: ReadConfig) -> int:
    return 1 if encoder.packed_sequence else config.micro_batch_size


def _worker_config(config: ReadConfig, ranks: DataParallel) -> WorkerConfig:
    return WorkerConfig(
        rank=ranks.rank,
        world_size=ranks.size,
        num_workers=config.num_workers,
        data_parallel_group=ranks.group,
        seed_offset=config.seed,
        global_error_handler=reraise_exception,
    )


def _open(
    blend: Blend, workers: WorkerConfig, config: ReadConfig, *, training: bool
) -> list[LoadedDataset]:
    shuffle = training and config.shuffle_buffer_size is not None
    # A pass of validation has each sample once, whatever the blend.
    mode = blend.mode if training else "single"
    return [
        _loaded(part.open(workers, training=training, shuffle=shuffle), mode, part.number)
        for part in blend.parts
    ]


def _loaded(factory: Any, mode: Mode, number: float) -> LoadedDataset:
    if mode == "repetitions" and not number.is_integer():
        return LoadedDataset(dataset=RepeatedFactory(factory, number))
    return LoadedDataset(
        dataset=factory,
        weight=number if mode == "weights" else None,
        repetitions=number if mode == "repetitions" else None,
    )
