"""Reading ahead: while one record's images are looked at, those of the next are on their way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

from .store import ImageStore

MOST_RECORDS = 128
MOST_BYTES = 48 << 20
"""Of images that were not asked for yet, unless a single record has more."""
_Item = TypeVar("_Item")


@runtime_checkable
class SlowStore(Protocol):
    """A store whose answers take a while: it is told early what will be asked for."""

    def expect(self, path: str) -> int:
        """An image will be asked for soon; bytes that it takes in memory until then."""
        ...

    def forget(self, path: str) -> None:
        """It will not be asked for again."""
        ...


def read_ahead(
    items: Iterable[_Item], images_of: Callable[[_Item], Iterable[str]], store: ImageStore
) -> Iterator[_Item]:
    """The same items, in order, each while the images of later ones are on their way.

    Args:
        items: records.
        images_of: paths of an item's images.
        store: where they lie; one that answers at once is not told anything.
    """
    return _ahead(items, images_of, store) if isinstance(store, SlowStore) else iter(items)


def _ahead(
    items: Iterable[_Item], images_of: Callable[[_Item], Iterable[str]], store: SlowStore
) -> Iterator[_Item]:
    waiting: deque[tuple[_Item, tuple[str, ...], int]] = deque()
    under_way = 0
    for item in items:
        paths = tuple(images_of(item))
        size = sum([store.expect(path) for path in paths])
        waiting.append((item, paths, size))
        under_way += size
        while len(waiting) > MOST_RECORDS or under_way > MOST_BYTES:
            under_way -= waiting[0][2]
            yield from _give(waiting, store)
            if not waiting:
                break
    while waiting:
        yield from _give(waiting, store)


def _give(waiting: deque[tuple[_Item, tuple[str, ...], int]], store: SlowStore) -> Iterator[_Item]:
    item, paths, _ = waiting.popleft()
    yield item
    for path in paths:
        store.forget(path)
