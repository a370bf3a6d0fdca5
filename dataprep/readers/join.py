"""Find records of one list by a field, for joining another list with it: 16 bytes a record."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import numpy as np
import xxhash

from ...errors import RecordError
from ...loaders.loose_record import load_json
from ..source import Source


class Lookup:
    """The records of a list by one field's value."""

    def __init__(self, source: Source, field: str) -> None:
        """Read through the list once.

        Args:
            source: of the list.
            field: that tells a record.

        Raises:
            RecordError: the file is broken.
        """
        self._source = source
        decode = msgspec.json.Decoder(msgspec.defstruct("Key", [(field, Any, None)])).decode
        hashes, offsets, lengths = array("Q"), array("Q"), array("I")
        for offset, length in source.spans():
            try:
                key = getattr(decode(source.data[offset : offset + length]), field)
            except (ValueError, RecursionError):
                continue
            if key is None:
                continue
            hashes.append(_hash(key))
            offsets.append(offset)
            lengths.append(length)
        found = np.asarray(hashes)
        # Stable: of records with one key the first is found.
        self._order = np.argsort(found, kind="stable").astype(np.uint32)
        self._hashes = found[self._order]
        self._offsets, self._lengths = offsets, lengths

    def find(self, key: Any) -> dict[str, Any] | None:
        """The first record whose field has the value; none where that is None."""
        if key is None:
            return None
        digest = np.uint64(_hash(key))
        at = int(np.searchsorted(self._hashes, digest))
        if at == len(self._hashes) or self._hashes[at] != digest:
            return None
        place = int(self._order[at])
        offset = self._offsets[place]
        try:
            value = load_json(self._source.data[offset : offset + self._lengths[place]])
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


def records_of(source: Source) -> Any:
    """The records of a list, each parsed; what is no object is an object with its text.

    Raises:
        RecordError: the file is broken.
    """
    for offset, length in source.spans():
        raw = source.data[offset : offset + length]
        try:
            value = load_json(raw)
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{source.path}: byte {offset}: a record is no JSON ({error}); correct it"
            ) from error
        yield value if isinstance(value, dict) else {"value": value}


def _hash(key: Any) -> int:
    return xxhash.xxh3_64_intdigest(str(key).encode("utf-8", "surrogatepass"))
