"""What every place of images can do."""

from __future__ import annotations

from typing import Protocol

from ...loaders.image_folder import Room


class ImageStore(Protocol):
    """Images by the paths that records give."""

    root: str
    """What the manifest says of where images lie, so that `--retry` finds them again."""

    def size(self, path: str) -> int:
        """Bytes of an image, or 0 where there is none; for planning only, nothing is judged."""
        ...

    def read_into(self, path: str, room: Room) -> memoryview:
        """Read an image to where it is wanted.

        Args:
            path: as the record gives it.
            room: called once with at least the image's bytes.

        Returns:
            The image's bytes, at the begin of what `room` gave.

        Raises:
            ImageError: with a reason of reasons.REJECTIONS; the message has the path.
            DiskError: the machine's or the network's trouble, not the record's: rejecting the
                record would lose it.
        """
        ...


def read_image(store: ImageStore, path: str) -> bytes:
    """An image's bytes; see `ImageStore.read_into`."""
    return bytes(store.read_into(path, lambda size: memoryview(bytearray(size))))
