"""How many batches a pass of validation has, the same on every rank."""

from __future__ import annotations

from dataclasses import replace

import torch
from megatron.energon import WorkerConfig
from megatron.energon.flavors.webdataset.sharder import Sharder

from .blend import Blend
from .energon_loader import open_loader, our_errors
from .last_note import has_batch
from .ranks import DataParallel
from .read_image import ImageReader
from .stream_dataset import ReadConfig, build_val_dataset
from .task_encoder import MultiModalTaskEncoder


def batches_of_rank(
    blend: Blend, encoder: MultiModalTaskEncoder, config: ReadConfig, ranks: DataParallel
) -> int | None:
    """Batches of the rank that has most; None where there is only one rank.

    Every rank computes it for all ranks, so nothing is sent. Packs must be chosen to be counted:
    the texts of the whole split are then tokenized once, without decoding a picture.

    Raises:
        ShardError: a shard cannot be read.
    """
    if ranks.size == 1:
        return None
    count = _count_packs if encoder.packed_sequence else _count_rows
    return max(count(blend, encoder, config, ranks.size, rank) for rank in range(ranks.size))


def _count_rows(
    blend: Blend, encoder: MultiModalTaskEncoder, config: ReadConfig, size: int, rank: int
) -> int:
    """Padded batches of a rank, as energon deals samples out to its workers."""
    workers = WorkerConfig(rank=rank, world_size=size, num_workers=config.num_workers)
    readers = max(1, config.num_workers)
    totals = [0] * readers
    offset = 0
    for part in blend.parts:
        bounds = Sharder.split_samples_to_workers(
            0, part.samples, workers, rotation_offset=offset % (readers * size)
        )
        totals = [
            total + end - start
            for total, start, end in zip(totals, bounds[:-1], bounds[1:], strict=True)
        ]
        offset += part.samples
    return sum(-(-total // config.micro_batch_size) for total in totals)


def _count_packs(
    blend: Blend, encoder: MultiModalTaskEncoder, config: ReadConfig, size: int, rank: int
) -> int:
    """Packs of a rank, chosen for each of its workers in this process."""
    readers = max(1, config.num_workers)
    here = replace(config, num_workers=0)
    count = 0
    for worker in range(readers):
        # energon deals the same share to a worker as to a rank without workers in its place.
        place = DataParallel(rank=rank * readers + worker, size=size * readers)
        twin = encoder.for_stream(blend.samples)
        twin.preparer = replace(encoder.preparer, reader=_NoPixels(encoder.preparer.reader))
        loader = open_loader(
            build_val_dataset(blend, twin, here, place), start_method="fork", pin_memory=False
        )
        with our_errors(blend.name):
            count += sum(map(has_batch, loader))
    return count


class _NoPixels:
    """Stands in for a reader of images where only the number of tiles matters."""

    def __init__(self, reader: ImageReader) -> None:
        self.reader = reader
        self.config = reader.config
        self.output = reader.output

    def describe(self) -> str:
        return self.reader.describe()

    def count_tiles(self, data: bytes, *, name: str = "image") -> int:
        return self.reader.count_tiles(data, name=name)

    def read(self, data: bytes, *, name: str = "image") -> torch.Tensor:
        return torch.empty(self.reader.count_tiles(data, name=name), 3, 1, 1)
