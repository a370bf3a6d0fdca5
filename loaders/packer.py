"""Choosing packs: which waiting samples share a row.

Oldest first, then an exact finish:

    waiting samples ──the oldest that leave room──▶ begun pack ──up to four that fill it──▶ pack

What is chosen depends on nothing but the lengths and their order: no randomness, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from ..errors import ConfigError, PackError
from .encoded import Ints

T = TypeVar("T")

_RESERVE = 2.5
"""How many samples of mean length the oldest leave room for. Two to four finish a pack, and among
so many sums one is nearly always exact."""
_PAIRED = 32
"""Of each hand, the oldest samples that are tried two at a time."""
_NO_CAP = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Packer:
    """Groups samples by their lengths so that packs are nearly full and nobody waits long.

    - Each pack begins with the oldest waiting sample. So a sample with n older ones before it
      leaves within n + 1 packs.
    - A pack ends when no waiting sample of the lookahead fits any more.
    - A choice depends on the oldest `lookahead` samples alone. So packs do not depend on how the
      samples are divided into buffers, as long as at least that many are kept waiting.
    """

    pack_length: int
    """Positions of a pack, image embeddings and alignment included."""
    max_tiles: int | None = None
    """Image tiles of a pack, a cap on the vision encoder's work; None for no cap."""
    lookahead: int = 1024
    """The oldest waiting samples, among which a pack is chosen. More fill it better and take longer
    to choose from."""

    def __post_init__(self) -> None:
        """Refuse settings under which nothing can be packed."""
        for name, value in (("pack_length", self.pack_length), ("lookahead", self.lookahead)):
            if value < 1:
                raise ConfigError(f"{name}={value}: no sample would fit; it must be 1 or more")
        if self.max_tiles is not None and self.max_tiles < 1:
            raise ConfigError(f"max_tiles={self.max_tiles}: no image would fit; None sets no cap")

    def check(self, key: str, length: int, tiles: int = 0) -> None:
        """Refuse a sample that fits no pack; call it before the sample joins those that wait.

        Args:
            key: for the message.
            length: positions, as `encoded.length` counts them.
            tiles: image tiles.

        Raises:
            PackError: longer than a pack, or more tiles than the cap.
        """
        if not 1 <= length <= self.pack_length:
            raise PackError(
                f"sample {key}: takes {length} positions, image embeddings and alignment included, "
                f"and the limit is {self.pack_length}; raise packed_sequence_size, or shorten or "
                "drop the sample before it is packed",
                reason="too_long_for_pack",
            )
        if self.max_tiles is not None and tiles > self.max_tiles:
            raise PackError(
                f"sample {key}: its images have {tiles} tiles, and the limit is {self.max_tiles}; "
                "raise max_tiles or drop the sample",
                reason="too_many_tiles_for_pack",
            )

    def select(
        self,
        samples: Sequence[T],
        lengths: Sequence[int],
        *,
        tiles: Sequence[int] | None = None,
        keep: int = 0,
    ) -> tuple[list[list[T]], list[T]]:
        """Group a buffer of samples.

        Args:
            samples: those that wait, the oldest first.
            lengths: positions of each, as `encoded.length` counts them.
            tiles: image tiles of each; None for none.
            keep: packs are chosen while more samples than this wait; 0 packs all.

        Returns:
            The packs, and the samples that stay behind; each in order, together all of them.

        Raises:
            PackError: a sample fits no pack.
        """
        packs = self.choose(lengths, tiles=tiles, keep=keep)
        chosen = {place for pack in packs for place in pack}
        rest = [sample for place, sample in enumerate(samples) if place not in chosen]
        return [[samples[place] for place in pack] for pack in packs], rest

    def choose(
        self, lengths: Sequence[int], *, tiles: Sequence[int] | None = None, keep: int = 0
    ) -> list[list[int]]:
        """Places of the samples of each pack, ascending; what `select` works by.

        Raises:
            PackError: a sample fits no pack; it is named by its place.

        Example:
            >>> Packer(pack_length=100).choose([60, 70, 30, 25, 15, 40])
            [[0, 5], [1, 2], [3, 4]]
        """
        sizes = np.asarray(lengths, np.int64)
        weights = np.zeros_like(sizes) if tiles is None else np.asarray(tiles, np.int64)
        cap = _NO_CAP if self.max_tiles is None else self.max_tiles
        for place in np.flatnonzero((sizes < 1) | (sizes > self.pack_length) | (weights > cap)):
            self.check(f"at place {place}", int(sizes[place]), int(weights[place]))
        waiting = np.arange(len(sizes))
        packs = []
        while len(waiting) > keep:
            window = waiting[: self.lookahead]
            weight = None if self.max_tiles is None else weights[window]
            places = _next_pack(sizes[window], self.pack_length, weight, cap)
            packs.append(window[places].tolist())
            waiting = np.delete(waiting, places)
        return packs


def _next_pack(sizes: Ints, room: int, tiles: Ints | None, budget: int) -> list[int]:
    """Places of the samples of one pack, ascending.

    Args:
        sizes: positions of the samples to choose from, the oldest first.
        room: positions of the pack.
        tiles: image tiles of each sample; None if they do not matter.
        budget: image tiles of the pack.
    """
    ends = sizes.cumsum()
    reserve = _RESERVE * ends[-1] / len(ends)
    oldest = max(1, int(ends.searchsorted(room - reserve, "right")))
    if tiles is not None:
        oldest = min(oldest, int(tiles.cumsum().searchsorted(budget, "right")))
    places = list(range(oldest))
    added = places
    while True:
        room -= int(sizes[added].sum())
        free = sizes <= room
        if tiles is not None:
            budget -= int(tiles[added].sum())
            free &= tiles <= budget
        free[places] = False
        fitting = free.nonzero()[0]
        if not len(fitting):
            return sorted(places)
        weight = None if tiles is None else tiles[fitting]
        added = fitting[_finish(sizes[fitting], room, weight, budget)].tolist()
        places += added


def _finish(sizes: Ints, room: int, tiles: Ints | None, budget: int) -> list[int]:
    """Places of up to four samples whose sizes come as near to `room` as any that were tried.

    The samples are dealt into two hands. Each hand offers nothing, its samples singly, and the
    oldest of them two at a time. `reach[r]` is the largest offer of the right hand that fits into
    r, so one look-up finds each left offer's best partner:

        room 10, the left hand offers 0 3 8, the right one 0 4 6
        reach of 0..10:  0 0 0 0 4 4 6 6 6 6 6
        totals:          0 + 6,  3 + reach[7] = 9,  8 + reach[2] = 8   ──▶ 3 and 6

    Args:
        sizes: positions; each fits into `room`.
        room: positions left in the pack.
        tiles: image tiles, each within `budget`; None if they do not matter.
        budget: image tiles left in the pack; each hand may spend half.
    """
    left = _offers(sizes[0::2], room)
    right = _offers(sizes[1::2], room)
    if tiles is not None:
        left[_offers(tiles[0::2], _NO_CAP) > (budget + 1) // 2] = 0
        right[_offers(tiles[1::2], _NO_CAP) > budget // 2] = 0
    reach = np.zeros(room + 1, np.int64)
    reach[right] = right
    np.maximum.accumulate(reach, out=reach)
    totals = left + reach[room - left]
    best = int(totals.argmax())
    if tiles is not None and totals[best] < sizes.max():  # It takes more than half of the budget.
        return [int(sizes.argmax())]
    partner = int((right == totals[best] - left[best]).argmax())
    mine = _places(best, len(sizes[0::2])) if left[best] else []
    others = _places(partner, len(sizes[1::2])) if right[partner] else []
    return [2 * place for place in mine] + [2 * place + 1 for place in others]


def _offers(hand: Ints, limit: int) -> Ints:
    """What a hand can add: nothing, each sample, each two of its oldest; 0 above the limit."""
    one, other = _pairs(min(len(hand), _PAIRED))
    pairs = hand[one] + hand[other]
    pairs[pairs > limit] = 0
    return np.concatenate([[0], hand, pairs])


def _places(offer: int, count: int) -> list[int]:
    """Places in a hand of `count` samples that make up an offer of `_offers`."""
    if offer <= count:
        return [offer - 1]
    one, other = _pairs(min(count, _PAIRED))
    return [int(one[offer - 1 - count]), int(other[offer - 1 - count])]


@cache
def _pairs(count: int) -> tuple[Ints, Ints]:
    """All pairs of so many."""
    one, other = np.triu_indices(count, 1)
    return one, other
