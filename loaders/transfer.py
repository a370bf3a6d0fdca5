"""A batch on its way from a worker: small tensors travel as arrays.

Each tensor that leaves a worker opens a file descriptor and a connection of its own, 0.4 ms apiece
in the training process; arrays go with the rest. Pixels are large, and stay a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from .batch import Batch, PackedSeqParams

_LARGE = "media"
_PACKED = "packed_seq_params"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A batch packed up. No mapping, in which torch's DataLoader would make tensors of arrays."""

    media: torch.Tensor
    rest: dict[str, Any]
    """Everything else, tensors as arrays of the same memory."""

    def pin_memory(self) -> Parcel:
        """A copy whose pixels are in pinned memory; DataLoader calls it."""
        return replace(self, media=self.media.pin_memory())


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
