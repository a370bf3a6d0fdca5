"""The JSON member of a sample: the record as it came, with the list of its images put in."""

from __future__ import annotations

import json

import msgspec

from ..loaders.format import IMAGE_PLACEHOLDER, ImageEntry
from .readers.record import Record

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
    """
    if insert or record.id is None or b'"images"' in raw:
        return _rebuilt(raw, record, key, entries, insert)
    return b'%b, "images": %b}' % (raw[:-1].rstrip(), _encode(entries))


def _rebuilt(
    raw: bytes, record: Record, key: str, entries: list[ImageEntry], insert: bool
) -> bytes:
    row = json.loads(raw)
    if record.id is None:
        row = {"id": key, **{field: row[field] for field in row if field != "id"}}
    row["images"] = [msgspec.to_builtins(entry) for entry in entries]
    if insert:
        first = row["conversations"][1 if record.turns[0].role == "system" else 0]
        first["value"] = f"{IMAGE_PLACEHOLDER}\n" * len(entries) + first["value"]
    return json.dumps(row).encode()
