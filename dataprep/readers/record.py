"""A record: one row of a source, in the terms that every format shares."""

from __future__ import annotations

import msgspec

from ...loaders.turns import Turn


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a source, parsed and not yet checked."""

    id: str | int | float | None
    turns: list[Turn]
    images: tuple[str, ...]
    """Paths as the source gives them; empty for text only."""


class Read(msgspec.Struct, frozen=True):
    """One record, read."""

    content: bytes
    """In LLaVA's form, UTF-8: what the sample's JSON member is made of."""
    record: Record
    """The same, parsed. Its images are what the image store is asked for."""
    repairs: tuple[str, ...] = ()
    """Codes of reasons.REPAIRS: what was changed to bring it into that form."""
