"""The images of one record, looked at as closely as is asked, and no closer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import xxhash

from ..loaders.image_header import Header
from .options import ConvertOptions
from .perceptual import look_of
from .reencode import Shrinking, refuse_damaged
from .shard import look_at
from .stores.store import ImageStore, read_image


class Pictures:
    """Images of a record; each is read once, when something of it is asked first.

    Every question raises ImageError where an image is missing or would be rejected.
    """

    def __init__(self, images: ImageStore, paths: Sequence[str], options: ConvertOptions) -> None:
        self.paths = paths
        self._images = images
        self._options = options

    @cached_property
    def _files(self) -> list[tuple[bytes, Header]]:
        files = []
        for path in self.paths:
            content = read_image(self._images, path)
            files.append((content, look_at(memoryview(content), path, self._options)))
        return files

    def refuse_damaged(self, wanted: Shrinking) -> None:
        """Ask whether each can be made smaller, where it is too large."""
        for content, header in self._files:
            refuse_damaged(content, header, wanted)

    @cached_property
    def contents(self) -> list[bytes]:
        """Their files."""
        return [content for content, _ in self._files]

    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each, before any EXIF rotation."""
        return [(header.width, header.height) for _, header in self._files]

    @cached_property
    def digests(self) -> list[bytes]:
        """128 bits of each file."""
        return [digest_of(content) for content in self.contents]

    @cached_property
    def looks(self) -> list[int | None]:
        """What each looks like; see `perceptual.look_of`."""
        return [look_of(content, self._options.pixel_limit) for content in self.contents]


def digest_of(content: bytes) -> bytes:
    """128 bits of a file."""
    return xxhash.xxh3_128_digest(content)
