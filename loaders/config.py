"""NeMo's configuration of multimodal samples."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ConfigError
from ..templates.config import BaseConversationTemplateConfig, ImageToken, LLaVATemplateConfig

__all__ = [
    "BaseConversationTemplateConfig",
    "ImageToken",
    "LLaVATemplateConfig",
    "MultiModalSampleConfig",
    "VideoToken",
]


@dataclass(frozen=True, slots=True)
class VideoToken:
    """How a video is written, and the id that stands for it; reserved, no sample type has videos.

    NeMo gives it two ids in two places, -300 and -400; this is the one of its sample config.
    """

    token_str: str = "<video>"
    token_id: int = -300


@dataclass(frozen=True, slots=True)
class MultiModalSampleConfig:
    """How samples of every type become tokens, with NeMo's fields."""

    image_token: ImageToken = field(default_factory=ImageToken)
    """What stands for an image in a text, and its id among the tokens."""
    ignore_place_holder: int = -100
    """Label of a position on which no loss is taken."""
    conversation_template_config: BaseConversationTemplateConfig | None = field(
        default_factory=LLaVATemplateConfig
    )
    """Template of conversations; None, or one without `chat_template`, for the tokenizer's own."""
    image_following_text: bool = True
    """Of a SimilarityInterleavedSample: an image stands behind the text it is matched to, or, when
    False, before it."""
    video_token: VideoToken = field(default_factory=VideoToken)

    def __post_init__(self) -> None:
        """Refuse ids that a vocabulary may hold with a ConfigError."""
        for name, number in (
            ("image_token.token_id", self.image_token.token_id),
            ("ignore_place_holder", self.ignore_place_holder),
        ):
            if number >= 0:
                raise ConfigError(
                    f"{name}={number}: could be the id of a word; give a negative number"
                )
        if self.image_token.token_id == self.ignore_place_holder:
            raise ConfigError(
                f"image_token.token_id and ignore_place_holder: both {self.ignore_place_holder}; "
                "give them different numbers"
            )
