"""A JSON or JSONL file of records, read one record at a time however large it is."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ..errors import ConfigError, RecordError
from .loose_record import load_record

_GAP = re.compile(rb"[ \t\r\n,]*")
_BLANK = re.compile(rb"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"


class RecordFile:
    """The records of a file; memory holds 16 bytes of each, and those pages that are being read.

    The file is mapped, not loaded; worker processes share its pages.
    """

    _hash: str | None = None

    def __init__(self, path: Path) -> None:
        """Find where each record begins and ends.

        Raises:
            ConfigError: there is no such file, or it is empty.
            RecordError: it is neither a JSON array nor lines of JSON.
        """
        self.path = path
        self._data: mmap.mmap | None = None
        self.spans: npt.NDArray[np.int64] = np.array(list(self._find()), dtype=np.int64)
        """int64[records, 2]; first byte of each record and the one behind its last."""
        if not len(self.spans):
            raise ConfigError(f"{path}: holds no records; correct the path")

    def __len__(self) -> int:
        return len(self.spans)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "spans": self.spans, "_data": None}

    def read(self, index: int) -> dict[str, Any]:
        """A record.

        Raises:
            RecordError: it is no JSON object; the message lacks its place.
        """
        start, end = self.spans[index]
        raw = self._map()[start:end]
        try:
            record = msgspec.json.decode(raw)
        except (ValueError, RecursionError):
            # It may be sound all the same: half a surrogate pair beside the conversation, say.
            record = load_record(raw)
        if not isinstance(record, dict):
            raise RecordError("is no object", reason="not_an_object")
        return record

    def fingerprint(self) -> str:
        """Hash of the whole file; read for it once."""
        if self._hash is None:
            self._hash = xxhash.xxh3_128(self._map()).hexdigest()
        return self._hash

    def _map(self) -> mmap.mmap:
        if self._data is None:
            try:
                with self.path.open("rb") as file:
                    self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"{self.path}: cannot be read ({error}); correct the path"
                ) from error
        return self._data

    def _find(self) -> Iterator[tuple[int, int]]:
        data = self._map()
        start = _skip(_BLANK, data, len(_BOM) if data[:3] == _BOM else 0)
        if data[start : start + 1] == b"[":
            return self._find_in_array(data, start)
        return _find_lines(data, start)

    def _find_in_array(self, data: mmap.mmap, start: int) -> Iterator[tuple[int, int]]:
        try:
            with memoryview(data) as view:
                raws = msgspec.json.decode(view[start:], type=list[msgspec.Raw])
                sizes = [len(memoryview(raw)) for raw in raws]
                del raws
        except (msgspec.DecodeError, RecursionError) as error:
            raise RecordError(
                f"{self.path}: is no JSON array ({error}); correct it, or write one record a line",
                reason="invalid_json",
            ) from error
        cursor = start + 1
        for size in sizes:
            cursor = _skip(_GAP, data, cursor)
            yield cursor, cursor + size
            cursor += size


def _find_lines(data: mmap.mmap, start: int) -> Iterator[tuple[int, int]]:
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        if data[start:end].strip():
            yield start, end
        start = end + 1


def _skip(what: re.Pattern[bytes], data: mmap.mmap, place: int) -> int:
    found = what.match(data, place)
    assert found is not None, "the pattern matches nothing at all, too"
    return found.end()
