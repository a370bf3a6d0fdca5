"""A frozen config that is still being written: assigning to a field makes a new config of it.

So a recipe is changed as NeMo's is, and each change is checked where it is made:

    finetune = Editable(recipe)
    finetune.data = my_data
    finetune.peft.target_modules = ["*.language_model.*.linear_qkv"]
    fit(finetune)
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

from ..errors import ConfigError
from .values import check_value, kinds_of, read_text


class Editable:
    """A handle on a frozen dataclass; fields that are frozen dataclasses come as handles, too."""

    __slots__ = ("_keep", "_value")

    def __init__(self, value: Any, keep: Callable[[Any], None] | None = None) -> None:
        """Hold a config.

        Args:
            value: the config.
            keep: called with each new one.
        """
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_keep", keep)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._value, name)
        if is_config(value) and name in _names(self._value):
            return Editable(value, partial(setattr, self, name))
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self._put(replace_at(self._value, name, finished(value)))

    def replace(self, changes: Mapping[str, Any] | None = None, **named: Any) -> Editable:
        """A copy with other values; this one stays as it is.

        Args:
            changes: of dotted names: `{"trainer.max_steps": 10}`.
            named: of this config's own fields.

        Raises:
            ConfigError: there is no such field, or a value cannot be.
        """
        value = self._value
        for name, new in {**(changes or {}), **named}.items():
            value = replace_at(value, name, finished(new))
        return Editable(value)

    def to_nemo_run(self) -> Any:
        """The recipe as nemo-run's task; see `nemo_task.py`."""
        from .nemo_task import to_nemo_run

        return to_nemo_run(self)

    def __repr__(self) -> str:
        return describe(self._value)

    def __dir__(self) -> list[str]:
        return [*_names(self._value), "replace", "to_nemo_run"]

    def __reduce__(self) -> Any:
        return Editable, (self._value,)

    def _put(self, value: Any) -> None:
        object.__setattr__(self, "_value", value)
        if self._keep is not None:
            self._keep(value)


def finished(value: Any) -> Any:
    """The config behind a handle; anything else as it is."""
    return value._value if isinstance(value, Editable) else value


def replace_at(config: Any, name: str, value: Any) -> Any:
    """The config with another value at a dotted name.

    Raises:
        ConfigError: there is no such field, or the value cannot be.
    """
    return _replace(config, name, value, name)


def _replace(config: Any, name: str, value: Any, whole: str) -> Any:
    """`replace_at`, with the whole name for errors."""
    first, _, rest = name.partition(".")
    if first not in _names(config):
        near = difflib.get_close_matches(first, _names(config), 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(_names(config))}"
        raise ConfigError(f"{type(config).__name__} has no {first!r}; {hint}")
    if rest:
        inner = getattr(config, first)
        if not is_config(inner):
            raise ConfigError(f"{name}: {first} is {inner!r}, which has no {rest!r}; set it first")
        return replace(config, **{first: _replace(inner, rest, value, whole)})
    kind = kinds_of(type(config))[first]
    if kind is not Any and isinstance(value, os.PathLike):
        value = os.fspath(value)
    check_value(kind, value, whole)
    return replace(config, **{first: value})


def replace_texts(config: Any, settings: Mapping[str, str]) -> Any:
    """The config with values from a command line, read as their fields are typed.

    Args:
        config: a frozen dataclass.
        settings: text by dotted name.

    Raises:
        ConfigError: there is no such field, or the text is no value of it.
    """
    for name, text in settings.items():
        config = replace_at(config, name, _read(config, name, text))
    return config


def describe(config: Any, indent: int = 0) -> str:
    """A config as Python would write it, a field a line."""
    if not is_config(config):
        return _brief(config)
    inside = "  " * (indent + 1)
    lines = [f"{inside}{n}={describe(getattr(config, n), indent + 1)},\n" for n in _names(config)]
    return f"{type(config).__name__}(\n{''.join(lines)}{'  ' * indent})"


def _brief(value: Any) -> str:
    """A data module by its sizes; anything else as it shows itself."""
    settings: Any = getattr(value, "settings", None)
    if not hasattr(settings, "global_batch_size"):
        return repr(value)
    return (
        f"{type(value).__name__}(micro_batch_size={settings.read.micro_batch_size}, "
        f"global_batch_size={settings.global_batch_size}, ...)"
    )


def _read(config: Any, name: str, text: str) -> Any:
    *parents, last = name.split(".")
    for parent in parents:
        config = getattr(config, parent, None)
    if not is_config(config) or last not in _names(config):
        return text  # replace_at says what is wrong.
    return read_text(kinds_of(type(config))[last], text, name)


def is_config(value: Any) -> bool:
    """Whether it is an instance of a frozen dataclass."""
    return (
        is_dataclass(value)
        and not isinstance(value, type)
        and bool(type(value).__dataclass_params__.frozen)  # type: ignore[attr-defined]
    )


def _names(config: Any) -> list[str]:
    return [field.name for field in fields(config)]
