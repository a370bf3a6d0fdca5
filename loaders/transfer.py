"""A batch on its way from a worker: its pixels are left in memory, the rest travels.

torch hands a tensor over through a socket, where a thread of the worker answers four times; while
the worker decodes the next images that thread gets no turn. Here the training process opens the
worker's memory through /proc, and nobody has to answer.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from .batch import Batch, PackedSeqParams

_LARGE = "media"
_PACKED = "packed_seq_params"
_KEPT = 16
"""Batches whose memory a worker keeps open; DataLoader asks for two ahead of what it has taken."""

_open: deque[int] = deque()


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch packed up. No mapping, in which torch's DataLoader would make tensors of arrays."""

    media: torch.Tensor
    rest: dict[str, Any]
    """Everything else, tensors as arrays of the same memory."""

    def pin_memory(self) -> Parcel:
        """A copy whose pixels are in pinned memory; DataLoader calls it."""
        return replace(self, media=self.media.pin_memory())

    def __reduce__(self) -> Any:
        """Leave the pixels where the other process finds them."""
        if not hasattr(os, "memfd_create") or not self.media.numel():
            return Parcel, (self.media, self.rest)
        place = _leave(self.media)
        return _fetch, (place, tuple(self.media.shape), self.media.dtype, self.rest)


def _leave(pixels: torch.Tensor) -> tuple[int, int]:
    """Put pixels into memory of their own; process and file descriptor, which soon is closed."""
    held = os.memfd_create("neva-prep-batch", os.MFD_CLOEXEC)
    view = memoryview(pixels.contiguous().view(-1).view(torch.uint8).numpy().data)
    while view:
        view = view[os.write(held, view) :]
    _open.append(held)
    if len(_open) > _KEPT:
        os.close(_open.popleft())
    return os.getpid(), held


def _fetch(
    place: tuple[int, int], shape: tuple[int, ...], dtype: torch.dtype, rest: dict[str, Any]
) -> Parcel:
    """The parcel, its pixels in the memory that was left."""
    opened = os.open(f"/proc/{place[0]}/fd/{place[1]}", os.O_RDWR | os.O_CLOEXEC)
    try:
        memory = mmap.mmap(opened, 0)
    finally:
        os.close(opened)
    return Parcel(torch.frombuffer(memory, dtype=dtype).view(shape), rest)


def pack_up(batch: Batch) -> Parcel:
    """What a worker sends of a batch."""
    # The pixels' place among the names stays.
    rest: dict[str, Any] = {
        name: None if name == _LARGE else _to_array(value) for name, value in batch.items()
    }
    if _PACKED in rest:
        bounds = rest[_PACKED]
        rest[_PACKED] = {f.name: _to_array(getattr(bounds, f.name)) for f in fields(bounds)}
    return Parcel(batch["media"], rest)


def unpack(parcel: Parcel) -> Batch:
    """The batch that was packed up."""
    batch = {name: _to_tensor(value) for name, value in parcel.rest.items()}
    batch[_LARGE] = parcel.media
    if _PACKED in batch:
        bounds = {name: _to_tensor(value) for name, value in batch[_PACKED].items()}
        batch[_PACKED] = PackedSeqParams(**bounds)
    return batch  # type: ignore[return-value]


def _to_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _to_tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
