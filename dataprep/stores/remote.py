"""Images as objects of a service, listed once and read by many requests at a time."""

from __future__ import annotations

import os
import posixpath
from array import array
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from ...errors import ConfigError, ImageError
from ...loaders.image_folder import MAX_FILE_BYTES, Room, refuse_odd_path
from ...loaders.remote import Place, open_place
from ...loaders.remote_errors import MissingObjectError
from ..files import told, write_file
from .embedded import EmbeddedImage, WithEmbedded

PARALLEL_REQUESTS = 32
"""Of one process."""


class RemoteStore(WithEmbedded):
    """The same with those images that records hold themselves; see ahead.SlowStore."""

    def __init__(self, given: str, work: Path) -> None:
        """List the prefix; see `RemoteImages`."""
        self._images = RemoteImages(given, work)
        super().__init__(self._images)

    def expect(self, path: str) -> int:
        """Begin to read an image."""
        return 0 if isinstance(path, EmbeddedImage) else self._images.expect(path)

    def forget(self, path: str) -> None:
        """It is not needed any more."""
        if not isinstance(path, EmbeddedImage):
            self._images.forget(path)


class RemoteImages:
    """Images below a prefix; see store.ImageStore."""

    def __init__(self, given: str, work: Path) -> None:
        """List the prefix, unless the work folder has the list.

        Raises:
            ConfigError: nothing is there, or the address is none.
            RemoteError: the service refuses.
        """
        self._place = open_place(given)
        self.root = str(self._place)
        self._listed = _open_list(self._place, work)
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[str, _Expected] = {}
        self._process = os.getpid()

    def size(self, path: str) -> int:
        """Bytes of an image, or 0 where there is none."""
        try:
            return self._listed.size(_key(path)) or 0
        except ImageError:
            return 0

    def expect(self, path: str) -> int:
        """Begin to read an image that will be asked for soon; bytes that it will take."""
        if self._process != os.getpid():
            # Threads of a parent do not come along.
            self._pool, self._ahead, self._process = None, {}, os.getpid()
        expected = self._ahead.get(path)
        if expected is not None:
            expected.times += 1
            return 0
        size = self.size(path)
        if not 0 < size <= MAX_FILE_BYTES:
            return 0
        if self._pool is None:
            self._pool = ThreadPoolExecutor(PARALLEL_REQUESTS, "images")
        future = self._pool.submit(self._place.read, _key(path))
        self._ahead[path] = _Expected(future)
        return size

    def forget(self, path: str) -> None:
        """An image that was expected is not needed any more."""
        expected = self._ahead.get(path)
        if expected is not None:
            expected.times -= 1
            if not expected.times:
                self._ahead.pop(path).content.cancel()

    def read_into(self, path: str, room: Room) -> memoryview:
        """Read an image to where it is wanted.

        Raises:
            ImageError: with the reason; the message has the path.
            RemoteError: the service refuses or cannot be reached.
        """
        content = self._read(path)
        target = room(len(content))[: len(content)]
        target[:] = content
        return target

    def _read(self, path: str) -> bytes:
        key = _key(path)
        size = self._listed.size(key)
        if size is None:
            raise self._missing(path)
        if size > MAX_FILE_BYTES:
            raise ImageError(f"image {path!r} has {size:,} bytes", reason="image_too_large")
        expected = self._ahead.get(path)
        try:
            return expected.content.result() if expected is not None else self._place.read(key)
        except MissingObjectError as error:
            raise self._missing(path) from error

    def _missing(self, path: str) -> ImageError:
        return ImageError(
            f"image {path[:200]!r} does not exist under {self.root}", reason="missing_image"
        )


class _Expected:
    """An image that is on its way."""

    __slots__ = ("content", "times")

    def __init__(self, content: Future[bytes]) -> None:
        self.content = content
        self.times = 1


class _List(NamedTuple):
    """What lies below a prefix: 16 bytes an object."""

    hashes: np.ndarray
    """uint64[objects], of the names, ascending."""
    sizes: np.ndarray
    """uint64[objects], bytes."""

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None where there is none."""
        wanted = _hash(key)
        at = int(np.searchsorted(self.hashes, np.uint64(wanted)))
        if at == len(self.hashes) or int(self.hashes[at]) != wanted:
            return None
        return int(self.sizes[at])


def _open_list(place: Place, work: Path) -> _List:
    file = work / f"listed-{xxhash.xxh3_64_hexdigest(str(place).encode())}.u64"
    if not file.exists():
        _write_list(place, file)
    with told(file, "read"):
        both = np.memmap(file, "<u8", "r")
    count = len(both) // 2
    return _List(both[:count], both[count:])


def _write_list(place: Place, file: Path) -> None:
    hashes, sizes = array("Q"), array("Q")
    for name, size in place.listed():
        hashes.append(_hash(name))
        sizes.append(size)
    if not hashes:
        raise ConfigError(f"--images {place}: nothing is there; check the address")
    names = np.frombuffer(hashes, "<u8")
    order = np.argsort(names, kind="stable")
    write_file(file, names[order].data, np.frombuffer(sizes, "<u8")[order].data)


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape"))


def _key(path: str) -> str:
    """The object's name below the prefix, and never above.

    Raises:
        ImageError: the path is none, or leads out of the prefix.
    """
    refuse_odd_path(path)
    key = posixpath.normpath(path)
    if key == ".." or key.startswith("../"):
        raise ImageError(
            f"image path {path!r} leads out of the images' prefix", reason="path_traversal"
        )
    return key
