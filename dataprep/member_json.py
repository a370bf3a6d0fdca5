"""The JSON member of a sample: the record as it came, with the list of its images put in."""

from __future__ import annotations

import msgspec

from ..errors import RecordError
from ..loaders.format import IMAGE_PLACEHOLDER, ImageEntry
from .readers.record import Record
from .splice import fields, items

_encode = msgspec.json.Encoder().encode


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


def _rebuilt(text: str, record: Record, key: str, entries: list[ImageEntry], insert: bool) -> bytes:
    """The record with some fields exchanged; all others keep their very text.

    Parsed and written anew, 1.10 would become 1.1, and 1e400 no JSON.
    """
    if insert:
        at = _first_question(text, record)
        text = text[:at] + f"{IMAGE_PLACEHOLDER}\\n" * len(entries) + text[at:]
    kept = {name: text[field.name.start : field.value.stop] for name, field in fields(text).items()}
    if record.id is None:
        kept.pop("id", None)
        kept = {"id": f'"id": "{key}"', **kept}
    kept["images"] = f'"images": {_encode(entries).decode()}'
    return ("{" + ", ".join(kept.values()) + "}").encode()


def _first_question(text: str, record: Record) -> int:
    """Where the text of the first human turn begins, behind its quotation mark."""
    turns = items(text, fields(text)["conversations"].value.start)
    first = turns[1 if record.turns[0].role == "system" else 0]
    return fields(text, first.start)["value"].value.start + 1
