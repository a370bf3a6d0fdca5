"""The JSON member of a sample: the record as it came, with the list of its images put in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from ..errors import RecordError
from ..loaders.format import IMAGE_PLACEHOLDER, ImageEntry
from .readers.record import Record

_encode = msgspec.json.Encoder().encode
# Numbers are only skipped here; Python refuses to parse those of more than 4,300 digits.
_skip_value = json.JSONDecoder(parse_int=str).raw_decode
_BETWEEN = re.compile(r"[ \t\r\n,:]*")


def member_json(
    raw: bytes, record: Record, key: str, entries: list[ImageEntry], *, insert: bool
) -> bytes:
    """The JSON member.

    Args:
        raw: the record's bytes, which pass through untouched wherever nothing changes.
        record: the same, parsed.
        key: the sample's key; it becomes the id of a record that has none.
        entries: the images, in order.
        insert: put one placeholder per image before the first human turn.

    Returns:
        UTF-8, one object.

    Raises:
        RecordError: it must be changed, and is nested too deeply for that.
    """
    if insert or record.id is None or b'"images"' in raw:
        try:
            return _rebuilt(raw.decode(), record, key, entries, insert)
        except RecursionError as error:
            raise RecordError("is nested too deeply", reason="invalid_json") from error
    return b'%b, "images": %b}' % (raw[:-1].rstrip(), _encode(entries))


class _Field(NamedTuple):
    """A field of an object, as offsets in the text."""

    name: str
    start: int
    value: int
    stop: int


def _rebuilt(text: str, record: Record, key: str, entries: list[ImageEntry], insert: bool) -> bytes:
    """The record with some fields exchanged; all others keep their very text.

    Parsed and written anew, 1.10 would become 1.1, and 1e400 no JSON.
    """
    if insert:
        at = _first_question(text, record)
        text = text[:at] + f"{IMAGE_PLACEHOLDER}\\n" * len(entries) + text[at:]
    fields = {field.name: text[field.start : field.stop] for field in _fields(text, 0)}
    if record.id is None:
        fields.pop("id", None)
        fields = {"id": f'"id": "{key}"', **fields}
    fields["images"] = f'"images": {_encode(entries).decode()}'
    return ("{" + ", ".join(fields.values()) + "}").encode()


def _first_question(text: str, record: Record) -> int:
    """Where the text of the first human turn begins, behind its quotation mark."""
    # Of fields with the same name the last one counts.
    at = {field.name: field.value for field in _fields(text, 0)}["conversations"]
    at = _skip_between(text, at + 1)
    if record.turns[0].role == "system":
        at = _skip_between(text, _skip_value(text, at)[1])
    return {field.name: field.value for field in _fields(text, at)}["value"] + 1


def _fields(text: str, at: int) -> Iterator[_Field]:
    """Fields of the object that begins at a place of a sound JSON text."""
    at = _skip_between(text, at + 1)
    while text[at] != "}":
        name, stop = _skip_value(text, at)
        value = _skip_between(text, stop)
        _, stop = _skip_value(text, value)
        yield _Field(name, at, value, stop)
        at = _skip_between(text, stop)


def _skip_between(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return match.end() if match else at
