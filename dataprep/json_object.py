"""A file that is one JSON object: where the list begins that one of its fields holds."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path

import msgspec

from ..errors import RecordError
from .splice import fields

_MOST_BYTES = 256 << 20
"""Of an object that is read by the slow way, which takes ten times its memory."""
_parse = json.JSONDecoder(parse_int=str).raw_decode
_KEY = re.compile(rb'[ \t\r\n,]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)


def start_of_field(path: Path, data: mmap.mmap, start: int, field: str) -> int:
    """Where the value of a field begins; the object is scanned, and nothing of it is copied.

    Args:
        path: of the file, for messages.
        data: the file.
        start: where its object begins.
        field: whose value is looked for.

    Raises:
        RecordError: it is not there, the object has a field twice, or the file is no JSON.
    """
    try:
        sizes = _sizes(data, start)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: is no JSON object ({error}); write the file again") from error
    at = start + 1
    for name, size in sizes.items():
        match = _KEY.match(data, at)
        if not match or json.loads(match[1]) != name:
            raise RecordError(
                f"{path}: byte {at}: a field of the object is there twice; give the list of "
                "records itself"
            )
        if name == field:
            return match.end()
        at = match.end() + size
    raise RecordError(f"{path}: has no field {field!r}; give the list of records itself")


def raw_fields(data: mmap.mmap, start: int) -> dict[str, msgspec.Raw]:
    """The fields of the object that a file is; of those with one name the last.

    Raises:
        ValueError: it is no JSON object.
        RecursionError: it is nested too deeply.
    """
    try:
        return msgspec.json.decode(memoryview(data)[start:], type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        # Half a surrogate pair somewhere in it must cost a record, not the file. Most files that
        # come here are JSON lines: more than one object.
        if "trailing characters" in str(error) or len(data) - start > _MOST_BYTES:
            raise
        return _slow_fields(data[start:])


def _slow_fields(raw: bytes) -> dict[str, msgspec.Raw]:
    text = raw.decode("utf-8", "surrogateescape")
    value, end = _parse(text)
    if not isinstance(value, dict) or text[end:].strip(" \t\r\n"):
        raise ValueError("is no object, or something follows it")
    return {
        name: msgspec.Raw(field.value.of(text).encode("utf-8", "surrogateescape"))
        for name, field in fields(text).items()
    }


def _sizes(data: mmap.mmap, start: int) -> dict[str, int]:
    """Bytes of each field's value."""
    # In a function of its own: an error's traceback would keep the file from being closed.
    return {name: len(memoryview(value)) for name, value in raw_fields(data, start).items()}
