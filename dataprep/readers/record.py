"""A record: one row of a source, in the terms that every format shares."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn

import msgspec

from ...loaders.turns import Turn


def load_json(raw: bytes) -> Any:
    """Any JSON text as Python objects; slower and more lenient than msgspec, yet no NaN passes.

    Raises:
        ValueError: it is no JSON (json.JSONDecodeError) or no UTF-8 (UnicodeDecodeError).
        RecursionError: it is nested too deeply.
    """
    return json.loads(raw.decode(), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a source, parsed and not yet checked."""

    id: str | int | float | None
    turns: list[Turn]
    images: tuple[str, ...]
    """Paths as the source gives them; empty for text only."""


class Read(NamedTuple):
    """One record, read."""

    content: bytes
    """In LLaVA's form, UTF-8: what the sample's JSON member is made of."""
    record: Record
    """The same, parsed. Its images are what the image store is asked for."""
    repairs: tuple[str, ...] = ()
    """Codes of reasons.REPAIRS: what was changed to bring it into that form."""
