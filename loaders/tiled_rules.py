"""Texts are held to their limit with the tiles that each of their images really has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..templates.render import ConversationTemplate
from .encoders import TextRules
from .prepared import EncodedText
from .read_image import ImageReader, count_tiles


@dataclass(frozen=True)
class TiledRules(TextRules):
    """TextRules that count the tiles of images before a text is shortened, or refused."""

    reader: ImageReader | None = None
    """What cuts images into tiles; None for one tile each."""

    def encode(
        self,
        key: str,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Any],
        template: ConversationTemplate | None = None,
    ) -> EncodedText:
        """As of TextRules; `image_embeddings` are those of a tile.

        Raises:
            ImageError: an image is damaged, so that its tiles cannot be counted.
            RecordError, TemplateError, PackError: as of TextRules.
        """
        if self.max_length is None or self.reader is None or not images:
            return super().encode(key, messages, images, template)
        tiles = count_tiles(key, tuple(images), self.reader)
        sizes = tuple(number * self.image_embeddings for number in tiles)
        # The templates take a size for each image where TextRules speaks of one for all.
        sized = replace(self, image_embeddings=cast(int, sizes))
        found = TextRules.encode(sized, key, messages, images, template or self.template)
        return replace(found, num_tiles=tuple(tiles[: len(found.images)]))
