"""What an image looks like in 64 bits, and which of many look alike.

The bits are the signs of low frequencies (a pHash): scaled, re-encoded or slightly changed images
differ in few of them. All arithmetic is in whole numbers, so that every machine finds the same.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise
from math import comb, cos, pi
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError
from .files import told

_SIDE = 32
_FREQUENCIES = 9
_FLATTEST = 3.0
"""Gray levels: an image that varies less has frequencies of noise alone, and looks like nothing."""
_BLOCK = 4096
_CANDIDATES = 1 << 20
_TABLES = 70
"""At most; each has 12 bytes an item on the disk."""
_HELD_BYTES = 64 << 20
"""Of tables, in memory."""
_WAVES = np.array(
    [
        [round(4096 * cos(pi * k * (2 * x + 1) / (2 * _SIDE))) for x in range(_SIDE)]
        for k in range(_FREQUENCIES)
    ],
    dtype=np.int64,
)


def look_of(content: bytes, pixel_limit: int) -> int | None:
    """64 bits of an image's looks; None where it cannot be decoded, or is all of one color.

    Args:
        content: the file; its header was let through.
        pixel_limit: what may be decoded.
    """
    from PIL import Image

    from ..loaders.decode import decode_array
    from ..loaders.image_header import no_stderr

    try:
        with no_stderr():
            pixels = decode_array(content, max_pixels=pixel_limit)
    except ImageError:
        return None
    # A fourth channel is taken for alpha, which L leaves out.
    gray = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(gray).astype(np.int64)
    if levels.std() < _FLATTEST:
        return None
    waves = _WAVES @ levels @ _WAVES.T
    low = waves[:8, :8].copy()
    # The mean brightness says little; the next frequency across takes its place.
    low[0, 0] = waves[0, 8]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def distances(looks: np.ndarray, other: np.ndarray | np.uint64) -> np.ndarray:
    """Bits in which looks differ: `uint8[n]` of `uint64[n]` and as many, or one.

    Example:
        >>> distances(np.array([0, 7, 2**64 - 1], np.uint64), np.uint64(1)).tolist()
        [1, 2, 63]
    """
    x = np.bitwise_xor(looks, other)
    # Bits of pairs, of fours, of eights; then all eights added up in the highest.
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    x = (x & pairs) + ((x >> np.uint64(2)) & pairs)
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    with np.errstate(over="ignore"):
        x = x * np.uint64(0x0101010101010101)
    return np.asarray((x >> np.uint64(56)).astype(np.uint8))


def first_alike(
    looks: np.ndarray, starts: np.ndarray, groups: np.ndarray, radius: int, work: Path
) -> tuple[np.ndarray, np.ndarray]:
    """For each item the first earlier one that it looks like, of those that look like no other.

    An item is one or several images; two items look alike where all their images do, in order.

    Args:
        looks: uint64[images], those of all items, one item after the other.
        starts: int64[items + 1], where the images of each begin, and the end of the last.
        groups: uint64[items]; items of different groups never look alike. Those of one group must
            have as many images each.
        radius: bits in which two images that look alike may differ.
        work: folder for tables, which can be larger than what should be held in memory.

    Returns:
        int64[items], the earlier item or -1; and uint8[items], the bits of the most different
        images.
    """
    count = len(starts) - 1
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.uint8)
    alike, bits = np.full(count, -1, np.int64), np.zeros(count, np.uint8)
    leading = looks[starts[:-1]]
    tables = [
        _Table(leading, groups, mask, work / f"alike-{number}")
        for number, mask in enumerate(_masks(count, radius))
    ]
    for begin in range(0, count, _BLOCK):
        items = np.arange(begin, min(begin + _BLOCK, count))
        found = (pair for table in tables for pair in table.candidates(items, alike))
        for item, earlier in _sorted_pairs(found, leading, groups, radius):
            if alike[item] < 0 and alike[earlier] < 0:
                apart = distances(_images(looks, starts, item), _images(looks, starts, earlier))
                if apart.max() <= radius:
                    alike[item], bits[item] = earlier, apart.max()
        if sum(table.bytes for table in tables) > _HELD_BYTES:
            for table in tables:
                table.release()
    return alike, bits


class _Table:
    """Items by some of the bits of their first image: a bucket holds those with the same bits."""

    def __init__(
        self, leading: np.ndarray, groups: np.ndarray, mask: np.uint64, path: Path
    ) -> None:
        keys = _mixed(leading & mask) ^ groups
        # In the order of a bucket its items stand as in the source.
        order = np.argsort(keys, kind="stable").astype(np.uint32)
        keys = keys[order]
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys[1:] != keys[:-1]
        first = np.flatnonzero(is_first).astype(np.uint32)[np.cumsum(is_first) - 1]
        columns = np.empty((3, len(keys)), np.uint32)
        columns[0] = order
        columns[1, order] = np.arange(len(keys), dtype=np.uint32)
        columns[2, order] = first
        with told(path):
            columns.tofile(path)
        self.bytes = columns.nbytes
        with told(path, "read"), path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._order, self._place, self._first = np.frombuffer(self._map, np.uint32).reshape(3, -1)

    def release(self) -> None:
        """Give back the memory of what was looked at; it comes again from the disk."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def candidates(
        self, items: np.ndarray, alike: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of an item and an earlier one of its bucket that looks like none before it."""
        first = self._first[items].astype(np.int64)
        earlier = self._place[items] - first
        ends = np.cumsum(earlier)
        at = 0
        while at < len(items):
            before = ends[at - 1] if at else 0
            stop = max(at + 1, int(np.searchsorted(ends, before + _CANDIDATES, side="right")))
            counts = earlier[at:stop]
            whose = np.repeat(items[at:stop], counts)
            steps = np.arange(len(whose)) - np.repeat(np.cumsum(counts) - counts, counts)
            others = self._order[np.repeat(first[at:stop], counts) + steps].astype(np.int64)
            is_kept = alike[others] < 0
            yield whose[is_kept], others[is_kept]
            at = stop


def _sorted_pairs(
    found: Iterable[tuple[np.ndarray, np.ndarray]],
    leading: np.ndarray,
    groups: np.ndarray,
    radius: int,
) -> Iterator[tuple[int, int]]:
    """Pairs whose first images look alike, each once, the earliest first."""
    near = [np.empty(0, np.int64)]
    for items, earlier in found:
        is_near = distances(leading[items], leading[earlier]) <= radius
        is_near &= groups[items] == groups[earlier]
        near.append(items[is_near] * len(groups) + earlier[is_near])
    return (divmod(pair, len(groups)) for pair in np.unique(np.concatenate(near)).tolist())


def _masks(items: int, radius: int) -> list[np.uint64]:
    """Bits for each table, such that items within the radius share a bucket of at least one.

    Of radius + k stripes of bits, at least k are the same; each table looks at k of them.
    """

    def cost(k: int) -> float:
        tables, stripe = comb(radius + k, k), 64 / (radius + k)
        return tables * (20 * items + float(items) ** 2 / 2 ** (k * stripe))

    kept = min((k for k in (1, 2, 3) if k == 1 or comb(radius + k, k) <= _TABLES), key=cost)
    edges = [64 * i // (radius + kept) for i in range(radius + kept + 1)]
    stripes = [(1 << stop) - (1 << start) for start, stop in pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in combinations(stripes, kept)]


def _mixed(x: np.ndarray) -> np.ndarray:
    """Spread bits over the whole word (splitmix64), so that groups can be laid over them."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _images(looks: np.ndarray, starts: np.ndarray, item: int) -> np.ndarray:
    return looks[starts[item] : starts[item + 1]]


def map_array(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """The array that a file holds, mapped into memory."""
    with told(path, "read"), path.open("rb") as file:
        if not path.stat().st_size:
            return np.empty(0, dtype)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
