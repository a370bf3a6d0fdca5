"""Forms of records: each other form than LLaVA's is a function that rewrites a record into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .llava import read_llava
from .record import Record

LLAVA = "llava"


class Read(NamedTuple):
    """One record, read."""

    content: bytes
    """In LLaVA's form, UTF-8: what the sample's JSON member is made of."""
    record: Record
    """The same, parsed. Its images are what the image store is asked for."""
    repairs: tuple[str, ...] = ()
    """Codes of reasons.REPAIRS: what was changed to bring it into that form."""


ReadRecord = Callable[[bytes], Read]
"""Reads a record's bytes as they stand in the source.

Raises:
    RecordError: with a `reason` of reasons.REJECTIONS; the message lacks the place.
"""


def reader_of(form: str) -> ReadRecord:
    """What reads records of a form; LLaVA's own pass through untouched."""
    return FORMS[form]


def _as_it_is(raw: bytes) -> Read:
    return Read(raw, read_llava(raw))


FORMS: dict[str, ReadRecord] = {LLAVA: _as_it_is}
"""Name of a form -> what reads its records."""
