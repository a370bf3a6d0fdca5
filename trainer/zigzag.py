"""Context parallelism: which positions of a row a rank holds.

Each sample is cut into 2 · size pieces, and rank r takes piece r and the r-th from behind: with
causal attention an early piece is little work and a late one much, so all ranks do the same.

    a sample of 8 over 2 ranks:  rank 0 holds 0 1 6 7, rank 1 holds 2 3 4 5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import PackError


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring queries of one sample on this rank, and the keys that they may see."""

    first_query: int
    end_query: int
    """Among the positions that this rank holds."""
    first_key: int
    end_key: int
    """Among all positions, in order. The last query is at the last key."""


def rank_positions(bounds: Sequence[int], size: int, rank: int) -> Tensor:
    """Positions that a rank holds, sample by sample.

    Args:
        bounds: where each sample starts, and the end of the row.
        size: ranks of the context-parallel group.
        rank: this one's place in it.

    Returns:
        int64[positions / size]

    Raises:
        PackError: a sample's length is no multiple of 2 · size.

    Example:
        >>> rank_positions([0, 4, 12], size=2, rank=0).tolist()
        [0, 3, 4, 5, 10, 11]
    """
    if size == 1:
        return torch.arange(bounds[0], bounds[-1])
    halves = []
    for start, end in pairwise(bounds):
        step = _piece_length(start, end, size)
        halves += [
            torch.arange(start + rank * step, start + (rank + 1) * step),
            torch.arange(end - (rank + 1) * step, end - rank * step),
        ]
    return torch.cat(halves)


def gathered_order(bounds: Sequence[int], size: int) -> Tensor:
    """Where each position is once all ranks' positions are laid one rank after another.

    Returns:
        int64[positions]
    """
    return torch.cat([rank_positions(bounds, size, rank) for rank in range(size)]).argsort()


def rank_pieces(bounds: Sequence[int], size: int, rank: int) -> list[Piece]:
    """What attention computes on a rank: two pieces of each sample, or the whole on one rank."""
    samples = pairwise(bounds)
    if size == 1:
        return [Piece(start, end, start, end) for start, end in samples if start < end]
    pieces = []
    for start, end in samples:
        if start == end:
            continue
        step = _piece_length(start, end, size)
        here = start // size
        late_end = end - rank * step
        pieces += [
            Piece(here, here + step, start, start + (rank + 1) * step),
            Piece(here + step, here + 2 * step, start, late_end),
        ]
    return pieces


def _piece_length(start: int, end: int, size: int) -> int:
    length, rest = divmod(end - start, 2 * size)
    if rest:
        raise PackError(
            f"positions {start} to {end}: a sample of {end - start} positions does not divide over "
            f"{size} context-parallel ranks; pad samples to a multiple of {2 * size} "
            "(the loaders' alignment)"
        )
    return length
