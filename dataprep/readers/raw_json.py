"""The JSON of values inside a JSON text: what is passed through keeps its very characters."""

from __future__ import annotations

import msgspec

from ..splice import fields, items

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def raw_fields(raw: bytes) -> dict[str, bytes]:
    """JSON of each field of an object; of fields with one name the last counts.

    Args:
        raw: one JSON object in UTF-8, known to be sound to a lenient reader.

    Example:
        >>> raw_fields(b'{"a": [1.10], "b": 2}')
        {'a': b'[1.10]', 'b': b'2'}
    """
    try:
        return {name: bytes(value) for name, value in _decode_fields(raw).items()}
    except (ValueError, RecursionError):
        # Half a surrogate pair somewhere, say: nothing that has to be understood here.
        text = raw.decode()
        return {name: field.value.of(text).encode() for name, field in fields(text).items()}


def raw_items(raw: bytes) -> list[bytes]:
    """JSON of each element of a list; see `raw_fields`."""
    try:
        return [bytes(value) for value in _decode_items(raw)]
    except (ValueError, RecursionError):
        text = raw.decode()
        return [value.of(text).encode() for value in items(text, 0)]
