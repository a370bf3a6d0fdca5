"""What packing will give: the samples' lengths, packed as the loader packs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...loaders.packer import Packer

PACK_LENGTHS = (2048, 4096, 8192)
BUFFER = 1024
"""Samples among which the loader chooses packs, unless it is told otherwise."""
_BLOCK = 16 * BUFFER
_SEED = 0

Lengths = npt.NDArray[np.int32]
"""int32[samples, 2]: positions and images of each sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The packs of one epoch."""

    pack_length: int
    """Positions of a pack."""
    packs: int = 0
    samples: int = 0
    """That fit a pack, and are in one."""
    oversize: int = 0
    """Samples that fit no pack; the loader skips and counts them."""
    positions: int = 0
    """Of all samples in packs."""
    images: int = 0
    most_samples: int = 0
    """Of one pack."""
    most_images: int = 0
    """Of one pack."""
    global_batch_size: int | None = None
    """Packs of one step."""

    @property
    def efficiency(self) -> float:
        """Share of all packs' positions that is no padding."""
        return self.positions / (self.packs * self.pack_length) if self.packs else 0.0

    @property
    def samples_per_pack(self) -> float:
        """Mean."""
        return self.samples / self.packs if self.packs else 0.0

    @property
    def images_per_pack(self) -> float:
        """Mean."""
        return self.images / self.packs if self.packs else 0.0

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps that see every pack once; the last one may be completed from the next epoch."""
        if self.global_batch_size is None:
            return None
        return -(-self.packs // self.global_batch_size)

    def plus(self, other: Forecast) -> Forecast:
        """With the packs of another part of the samples."""
        return replace(
            self,
            packs=self.packs + other.packs,
            samples=self.samples + other.samples,
            oversize=self.oversize + other.oversize,
            positions=self.positions + other.positions,
            images=self.images + other.images,
            most_samples=max(self.most_samples, other.most_samples),
            most_images=max(self.most_images, other.most_images),
        )


Task = tuple[int, Lengths]
"""Pack length, and the samples of some whole buffers."""


def forecast(
    lengths: Sequence[Lengths],
    global_batch_size: int | None,
    pack_lengths: Sequence[int] = PACK_LENGTHS,
    run: Callable[[Callable[[Task], Forecast], Iterable[Task]], Iterable[Forecast]] = map,
) -> tuple[Forecast, ...]:
    """The packs that samples make at several pack lengths.

    Samples come in a random order, always the same one, and packs are chosen from one buffer of
    1,024 after the other, as by one worker of the loader.

    Args:
        lengths: of the samples, in parts.
        global_batch_size: packs of one step; None leaves out the steps.
        pack_lengths: those to try.
        run: like `map`; may work in several processes.
    """
    shuffled = _shuffled(lengths)
    found = {}
    for size in pack_lengths:
        oversize = int(np.count_nonzero(shuffled[:, 0] > size))
        found[size] = Forecast(
            pack_length=size, oversize=oversize, global_batch_size=global_batch_size
        )
    for part in run(pack_part, _tasks(shuffled, pack_lengths)):
        found[part.pack_length] = found[part.pack_length].plus(part)
    return tuple(found.values())


def pack_part(task: Task) -> Forecast:
    """The packs of some buffers of samples."""
    pack_length, fits = task
    packer = Packer(pack_length=pack_length)
    packs = [
        [start + place for place in pack]
        for start in range(0, len(fits), BUFFER)
        for pack in packer.choose(fits[start : start + BUFFER, 0].tolist())
    ]
    return Forecast(
        pack_length=pack_length,
        packs=len(packs),
        samples=len(fits),
        positions=int(fits[:, 0].sum()),
        images=int(fits[:, 1].sum()),
        most_samples=max(map(len, packs), default=0),
        most_images=max((int(fits[pack, 1].sum()) for pack in packs), default=0),
    )


def _shuffled(lengths: Sequence[Lengths]) -> Lengths:
    if not lengths:
        return np.empty((0, 2), np.int32)
    return np.random.default_rng(_SEED).permutation(np.concatenate(lengths))


def _tasks(shuffled: Lengths, pack_lengths: Sequence[int]) -> Iterator[Task]:
    for pack_length in pack_lengths:
        fits = shuffled[shuffled[:, 0] <= pack_length]
        for start in range(0, len(fits), _BLOCK):
            yield pack_length, fits[start : start + _BLOCK]
