"""Conversation templates: messages become text with trained spans, then tokens and labels.

Names are imported when first used: listing templates needs neither numpy nor a tokenizer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import (
        BaseConversationTemplateConfig as BaseConversationTemplateConfig,
    )
    from .config import (
        ImageToken as ImageToken,
    )
    from .config import (
        LLaVATemplateConfig as LLaVATemplateConfig,
    )
    from .config import (
        resolve_template as resolve_template,
    )
    from .encode import encode_conversation as encode_conversation
    from .encode import encode_conversations as encode_conversations
    from .library import get_template as get_template
    from .library import list_templates as list_templates
    from .render import ConversationTemplate as ConversationTemplate
    from .rendered import Rendered as Rendered
    from .sample import TokenizedSample as TokenizedSample

_HOME = {
    "BaseConversationTemplateConfig": ".config",
    "ConversationTemplate": ".render",
    "ImageToken": ".config",
    "LLaVATemplateConfig": ".config",
    "Rendered": ".rendered",
    "TokenizedSample": ".sample",
    "encode_conversation": ".encode",
    "encode_conversations": ".encode",
    "get_template": ".library",
    "list_templates": ".library",
    "resolve_template": ".config",
}

__all__ = [
    "BaseConversationTemplateConfig",
    "ConversationTemplate",
    "ImageToken",
    "LLaVATemplateConfig",
    "Rendered",
    "TokenizedSample",
    "encode_conversation",
    "encode_conversations",
    "get_template",
    "list_templates",
    "resolve_template",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
