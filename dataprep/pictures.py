"""The images of one record, looked at as closely as is asked, and no closer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from .image import Header
from .options import ConvertOptions
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
    def contents(self) -> list[bytes]:
        """Their files."""
        return [read_image(self._images, path) for path in self.paths]

    @cached_property
    def headers(self) -> list[Header]:
        """What they say of themselves."""
        return [
            look_at(memoryview(content), path, self._options)
            for content, path in zip(self.contents, self.paths, strict=True)
        ]

    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each, before any EXIF rotation."""
        return [(header.width, header.height) for header in self.headers]
