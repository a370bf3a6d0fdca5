"""Values of a config's fields: whether a field can have one, and texts as values."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import ConfigError

_LISTS = (tuple, list, Sequence)
_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    type(None): "None",
}


def check_values(config: Any, before: str = "") -> None:
    """Refuse a config with a value that its field cannot have, at any depth.

    Args:
        config: a dataclass.
        before: what the fields' names begin with in errors: `trainer.`.

    Raises:
        ConfigError: of the first such field.
    """
    for name, kind in kinds_of(type(config)).items():
        check_value(kind, getattr(config, name), before + name)


def check_value(kind: Any, value: Any, name: str) -> None:
    """Refuse a value that a field cannot have, or a config with such a value in it.

    Raises:
        ConfigError: it has the field's name, the value and what is allowed.
    """
    if not _fits(kind, value):
        raise ConfigError(f"{name}={value!r}: must be {_allowed(kind)}")
    if kind is not Any and is_dataclass(value):
        check_values(value, f"{name}.")


def read_text(kind: Any, text: str, name: str) -> Any:
    """A text of a command line as what its field is typed as.

    Raises:
        ConfigError: it is no such value.
    """
    for choice in typing.get_args(kind) if _is_union(kind) else (kind,):
        try:
            return _convert(choice, text)
        except ValueError:
            continue
    raise ConfigError(f"{name}={text}: must be {_allowed(kind)}")


def kinds_of(config: type) -> dict[str, Any]:
    """Types of a dataclass's fields, by their names."""
    hints = typing.get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config)}


def _fits(kind: Any, value: Any) -> bool:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind is Any:
        return True
    if _is_union(kind):
        return any(_fits(choice, value) for choice in inner)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if origin in _LISTS:
        # A list may stand for a tuple, and a tuple for a list.
        return (
            isinstance(value, tuple | list)
            and len(value) == (_length(kind) or len(value))
            and all(_fits(inner[0], one) for one in value)
        )
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        # This comparison is false for nan, too.
        return isinstance(value, int | float) and abs(value) < math.inf
    return isinstance(value, origin)


def _allowed(kind: Any) -> str:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if _is_union(kind):
        return " or ".join(_allowed(choice) for choice in inner)
    if origin is typing.Literal:
        return ", ".join(map(repr, inner))
    if origin in _LISTS:
        length = _length(kind)
        return f"{f'{length} values' if length else 'a list'}, each {_allowed(inner[0])}"
    return _WORDS.get(kind) or f"a {origin.__name__}"


def _convert(kind: Any, text: str) -> Any:
    if kind is type(None):
        return None if text.lower() in _NOTHING else _no()
    if kind is bool:
        return text.lower() == "true" if text.lower() in ("true", "false") else _no()
    if kind in (int, float):
        return kind(text.replace("_", ""))
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Literal:
        return text if text in inner else _no()
    if origin in _LISTS:
        parts = [part.strip(" '\"") for part in text.strip("[]()").split(",")]
        return tuple(_convert(inner[0], part) for part in parts if part)
    return text if kind is str and text.lower() not in _NOTHING else _no()


_NOTHING = ("none", "null")


def _no() -> Any:
    raise ValueError


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _length(kind: Any) -> int | None:
    """How many values a tuple has; None for any number."""
    inner = typing.get_args(kind)
    is_fixed = typing.get_origin(kind) is tuple and Ellipsis not in inner
    return len(inner) if is_fixed else None
