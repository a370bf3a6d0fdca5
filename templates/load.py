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
        what = " ".join(f"{error}".split())
        raise ConfigError(
            f"{folder}: no tokenizer can be loaded from it ({what}); give the folder that holds "
            "tokenizer.json, or the model's other files of its tokenizer"
        ) from error


def pick_template(name: str | None, processor: Any) -> ConversationTemplate:
    """A template by name, from a .jinja file, or the tokenizer's own.

    Raises:
        ConfigError: no template has the name, the file cannot be read, or no name is given and the
            tokenizer has no template.
        TemplateError: the file is no template.
    """
    from .config import resolve_template
    from .library import get_template
    from .render import ConversationTemplate

    if name is None:
        try:
            return resolve_template(None, processor)
        except ConfigError as error:
            owner = getattr(processor, "name_or_path", "") or type(processor).__name__
            raise ConfigError(
                f"{owner}: this tokenizer has no chat template of its own; give --template NAME, "
                "one of `neva-prep templates`, or --template FILE.jinja"
            ) from error
    if not name.endswith(".jinja"):
        try:
            return get_template(name)
        except TemplateError as error:
            raise ConfigError(f"{error}; give one of them, or a .jinja file") from error
    try:
        source = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot be read ({error}); check the path") from error
    return ConversationTemplate(name=Path(name).stem, chat_template=source)


def warn_of_pieces(template: ConversationTemplate, processor: Any) -> None:
    """Say on stderr that a template ends answers with what the tokenizer only spells out."""
    import click

    from .lookalikes import stop_in_pieces

    if finding := stop_in_pieces(template, processor):
        way = "Give --template one of this model's (see `neva-prep templates`)"
        click.echo(f"{finding}. {way}", err=True)


def read_conversations(path: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """The conversations of JSON or JSON lines: records, conversations, or one of them.

    Returns:
        The id of each, or its number, and its messages.

    Raises:
        ConfigError: the file holds something else, or nothing.
    """
    found = _read_json(path)
    if isinstance(found, dict) or (isinstance(found, list) and found and _is_message(found[0])):
        found = [found]
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{path}: holds no conversation; give a list of records, or JSON lines")
    named = []
    for number, record in enumerate(found):
        messages = record
        name = str(number)
        if isinstance(record, dict):
            messages = record.get("conversations") or record.get("messages")
            name = str(record.get("id", number))
        if not isinstance(messages, list) or not messages or not _is_message(messages[0]):
            raise ConfigError(
                f"{path}: record {number} holds no conversation; give it 'conversations' or "
                "'messages', or leave it out"
            )
        named.append((name, messages))
    return named


def _read_json(path: Path) -> Any:
    """The value of a file of JSON, or the list of those on its lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); check the path") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        # Of an array the error of the whole says where it is broken.
        if not text.lstrip().startswith("{"):
            raise ConfigError(f"{path}: is no JSON ({error}); correct it") from error
    values = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: line {number}: is no JSON ({error}); correct it") from error
    return values


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _has_processor(path: Path) -> bool:
    return any((path / f"{name}_config.json").exists() for name in ("processor", "preprocessor"))
