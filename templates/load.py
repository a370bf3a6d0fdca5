"""What the commands are given by name: tokenizers, templates, files of conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, TemplateError

if TYPE_CHECKING:
    from .render import ConversationTemplate


def load_tokenizer(folder: str | Path) -> Any:
    """The processor of a folder where there is one, else its tokenizer.

    Raises:
        ConfigError: the folder holds neither.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the one that holds the tokenizer")
    from transformers import AutoProcessor, AutoTokenizer

    loader = AutoProcessor if _has_processor(path) else AutoTokenizer
    try:
        return loader.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ConfigError(f"{folder}: no tokenizer can be loaded from it ({error})") from error


def pick_template(name: str | None, processor: Any) -> ConversationTemplate:
    """A template by name, from a .jinja file, or the tokenizer's own.

    Raises:
        TemplateError: no template has the name, or the file cannot be read.
        ConfigError: no name is given and the tokenizer has no template.
    """
    from .config import resolve_template
    from .library import get_template
    from .render import ConversationTemplate

    if name is None:
        try:
            return resolve_template(None, processor)
        except ValueError as error:
            raise ConfigError(f"{error}") from error
    if not name.endswith(".jinja"):
        return get_template(name)
    try:
        source = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"{name}: cannot be read ({error}); check the path") from error
    return ConversationTemplate(name=Path(name).stem, chat_template=source)


def read_conversations(path: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """The conversations of a JSON file: a list of records, of conversations, or one of them.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if isinstance(found, dict) or (found and _is_message(found[0])):
        found = [found]
    named = []
    for number, record in enumerate(found):
        messages = record
        name = str(number)
        if isinstance(record, dict):
            messages = record.get("conversations") or record.get("messages")
            name = str(record.get("id", number))
        if not isinstance(messages, list) or not messages or not _is_message(messages[0]):
            raise ConfigError(f"{path}:{number}: holds no conversation; give 'conversations'")
        named.append((name, messages))
    return named


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _has_processor(path: Path) -> bool:
    return any((path / f"{name}_config.json").exists() for name in ("processor", "preprocessor"))
