"""Small pictures that were made, as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

MAX_BYTES = 32 << 20
AT_ONCE = 2
"""Pictures that are decoded at the same time; each may take 120 MB for a moment."""


class PictureCache:
    """Bytes by name; those that were not asked for the longest go first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """Make an empty one."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(AT_ONCE)

    def get(self, name: Hashable, make: Callable[[], bytes]) -> bytes:
        """The bytes of a name, made now unless they are kept."""
        if (kept := self._find(name)) is not None:
            return kept
        with self._decoding:
            if (kept := self._find(name)) is not None:
                return kept
            made = make()
        self.put(name, made)
        return made

    def put(self, name: Hashable, made: bytes) -> None:
        """Keep bytes."""
        with self._lock:
            self._bytes += len(made) - len(self._kept.pop(name, b""))
            self._kept[name] = made
            while self._bytes > self._max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped)

    def _find(self, name: Hashable) -> bytes | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)
