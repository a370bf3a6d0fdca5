"""NeMo's configuration classes, and which template a conversation gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .library import NEMO_SYSTEM, source_of
from .reader import tokenizer_of
from .render import ConversationTemplate


@dataclass(frozen=True, slots=True)
class ImageToken:
    """How an image is written, and the id that stands for it."""

    token_str: str = "<image>"
    token_id: int = -200


@dataclass(frozen=True)
class BaseConversationTemplateConfig:
    """How conversations are written, with NeMo's fields."""

    system: str | None = (
        "A chat between a curious user and artificial assistant agent. The assistant gives "
        "helpful, detailed, and polite answers to user's questions."
    )
    """System text of a conversation that has none; None or "" for none."""
    roles: Sequence[str] = ("user", "assistant")
    """Names of the user and the assistant. The template sees them as `roles` and as each
    message's role; NeMo's own template writes them in capitals."""
    stop_string: str | None = "</s>"
    """What ends an answer; the template sees it as `stop_string`."""
    chat_template: str | None = source_of("neva")
    """Jinja; None or "" for the tokenizer's own."""
    name: str = "config"
    """For messages."""


@dataclass(frozen=True)
class LLaVATemplateConfig(BaseConversationTemplateConfig):
    """NeMo's template for LLaVA: `USER: … ASSISTANT: …</s>` with its own system text."""

    system: str | None = NEMO_SYSTEM
    name: str = "neva"


def resolve_template(
    config: BaseConversationTemplateConfig | None, tokenizer: Any
) -> ConversationTemplate:
    """The config's chat template, else the tokenizer's.

    Args:
        config: fields to use; None for the tokenizer's template as it is.
        tokenizer: of transformers, or a processor that has one; it is not changed.

    Raises:
        ConfigError: neither has a chat template.
    """
    if config is not None and config.chat_template:
        return ConversationTemplate(
            name=config.name,
            chat_template=config.chat_template,
            system=config.system,
            roles=_pair(config.roles),
            stop_string=config.stop_string,
            add_bos=config.chat_template == source_of("neva"),
        )
    own = _own_template(tokenizer)
    if not own:
        owner = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise ConfigError(
            f"{owner}: neither the config nor this tokenizer has a chat template; give one as "
            "chat_template, or name one of `neva-prep templates`"
        )
    return ConversationTemplate(
        name="the tokenizer's own",
        chat_template=own,
        system=config.system if config else None,
        roles=_pair(config.roles) if config else ("user", "assistant"),
    )


def _pair(roles: Sequence[str]) -> tuple[str, str]:
    user, assistant = roles
    return user, assistant


def _own_template(processor: Any) -> str:
    """The chat template of a processor or its tokenizer; `default` where there are several."""
    for owner in (processor, tokenizer_of(processor)):
        own = getattr(owner, "chat_template", None)
        if isinstance(own, dict):
            own = own.get("default")
        if own:
            return str(own)
    return ""
