"""How texts become tokens: what all samples of a stream share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from ..errors import RecordError
from ..templates.config import resolve_template
from ..templates.encode import SpecialText, encode_conversation
from ..templates.lookalikes import stop_in_pieces
from ..templates.overflow import Overflow
from ..templates.render import ConversationTemplate, ImagePlacement
from .config import MultiModalSampleConfig
from .prepared import EncodedText
from .read_image import ImageReader, count_tiles

logger = logging.getLogger(__name__)

DOCUMENT = ConversationTemplate(
    name="interleaved",
    chat_template="{%- for message in messages %}{% generation %}{{ message['content'] }}"
    "{% endgeneration %}{% endfor %}",
    add_bos=True,
    trusted=True,
)
"""Text and images as they stand; loss is taken on all text."""


@dataclass(frozen=True)
class TextRules:
    """How texts become tokens; one for all samples of a stream."""

    tokenizer: Any
    config: MultiModalSampleConfig
    max_length: int | None = None
    """Most positions of a sample, image embeddings included; None for no limit."""
    overflow: Overflow = "error"
    image_embeddings: int = 576
    """Positions of one tile, for the limit."""
    image_placement: ImagePlacement = "keep"
    special_text: SpecialText = "escape"
    named_template: ConversationTemplate | None = None
    """Of conversations, in place of the config's."""
    reader: ImageReader | None = None
    """What cuts images into tiles, which count for the limit; None for one tile each."""
    warns: ClassVar[bool] = True
    """Whether the log is told of a template of another model."""

    @cached_property
    def template(self) -> ConversationTemplate:
        """Of conversations; the log is told of one that is made for another model.

        Raises:
            ConfigError: neither the config nor the tokenizer has a chat template.
        """
        template = self.named_template or resolve_template(
            self.config.conversation_template_config, self.tokenizer
        )
        finding = stop_in_pieces(template, self.tokenizer) if self.warns else ""
        if finding and _is_first_worker():
            logger.warning("%s; give the template of this model", finding)
        return template

    def encode(
        self,
        key: str,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Any],
        template: ConversationTemplate | None = None,
    ) -> EncodedText:
        """Tokens of messages, which must have one placeholder for each image.

        Args:
            key: of the sample, for messages.
            messages: as `encode_conversation` takes them.
            images: in the order of their placeholders.
            template: None for the one of conversations.

        Raises:
            RecordError: there are more or fewer placeholders than images.
            ImageError: an image is damaged, so that its tiles cannot be counted.
            TemplateError: the messages cannot be rendered.
            PackError: they are too long.
        """
        tiles = self._tiles(key, images)
        text = encode_conversation(
            messages,
            tokenizer=self.tokenizer,
            template=template or self.template,
            image_token=self.config.image_token,
            ignore_index=self.config.ignore_place_holder,
            # A document has no turns: an image's place among its texts is what it says.
            image_placement="keep" if template is DOCUMENT else self.image_placement,
            special_text=self.special_text,
            max_length=self.max_length,
            overflow=self.overflow,
            image_embeddings=[number * self.image_embeddings for number in tiles]
            if tiles
            else self.image_embeddings,
            key=key,
        )
        placeholders = text.num_images + text.events.get("dropped_images", 0)
        if placeholders != len(images):
            raise RecordError(
                f"sample {key}: its text has {placeholders} '{self.config.image_token.token_str}' "
                f"but it has {len(images)} images; correct the record",
                reason="placeholder_mismatch",
            )
        shown = text.num_images
        return EncodedText(
            text=text,
            images=tuple(images[:shown]),
            num_tiles=None if tiles is None else tuple(tiles[:shown]),
        )

    def _tiles(self, key: str, images: Sequence[Any]) -> list[int] | None:
        """Tiles of each image; None where no limit asks for them."""
        if self.max_length is None or self.reader is None or not images:
            return None
        return list(count_tiles(key, tuple(images), self.reader))


def _is_first_worker() -> bool:
    """What all workers find is said by one of them."""
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    return worker is None or worker.id == 0
