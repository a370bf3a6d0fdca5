"""Images that a record itself holds: their bytes travel with the name they are asked for by."""

from __future__ import annotations

from ...loaders.image_folder import Room
from .store import ImageStore


class EmbeddedImage(str):
    """The short name of an image that brings its bytes along."""

    content: bytes

    def __new__(cls, name: str, content: bytes) -> EmbeddedImage:
        """A name for these bytes."""
        made = super().__new__(cls, name)
        made.content = content
        return made

    def __reduce__(self) -> tuple[type[EmbeddedImage], tuple[str, bytes]]:
        """For other processes, with the bytes."""
        return EmbeddedImage, (str(self), self.content)


class WithEmbedded:
    """A place of images, to which those are added that records hold themselves."""

    def __init__(self, store: ImageStore) -> None:
        self.root = store.root
        self.store = store
        self._size = store.size
        self._read_into = store.read_into

    def size(self, path: str) -> int:
        """Bytes of an image; see store.ImageStore."""
        return len(path.content) if isinstance(path, EmbeddedImage) else self._size(path)

    def read_into(self, path: str, room: Room) -> memoryview:
        """Read an image to where it is wanted; see store.ImageStore."""
        if not isinstance(path, EmbeddedImage):
            return self._read_into(path, room)
        size = len(path.content)
        target = room(size)[:size]
        target[:] = path.content
        return target
