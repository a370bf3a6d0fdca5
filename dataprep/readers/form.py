"""Forms of records: each other form than LLaVA's is a function that rewrites a record into it."""

from __future__ import annotations

from collections.abc import Callable

from .chat import read_chat
from .interleaved import read_mmc4, read_obelics
from .llava import read_only_llava
from .record import Read
from .rows import alpaca, captions, query, reader_of_rows, vqa

LLAVA = "llava"

ReadRecord = Callable[[bytes], Read]
"""Reads a record's bytes as they stand in the source.

Raises:
    RecordError: with a `reason` of reasons.REJECTIONS; the message lacks the place.
"""


def reader_of(form: str) -> ReadRecord:
    """What reads records of a form; LLaVA's own pass through untouched."""
    return FORMS[form]


def read_as_llava(raw: bytes) -> Read:
    """Read a record of LLaVA's own form, which is kept byte for byte.

    One that says more than that form can is read as other forms are: nothing it says is lost.
    """
    record = read_only_llava(raw)
    return read_chat(raw) if record is None else Read(raw, record)


FORMS: dict[str, ReadRecord] = {
    LLAVA: read_as_llava,
    "sharegpt": read_chat,
    "messages": read_chat,
    "pairs": read_chat,
    "qwen-vl": read_chat,
    "xcomposer": read_chat,
    "alpaca": reader_of_rows(alpaca),
    "query": reader_of_rows(query),
    "vqa": reader_of_rows(vqa),
    "captions": reader_of_rows(captions),
    "obelics": read_obelics,
    "mmc4": read_mmc4,
}
"""Name of a form -> what reads its records."""
