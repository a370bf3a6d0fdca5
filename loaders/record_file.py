"""A JSON or JSONL file of records, read one record at a time however large it is."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ..errors import ConfigError, RecordError
from .loose_record import load_record
from .record_fields import CONVERSATIONS
from .spans import Span, array_spans, object_spans, skip_space

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
            RecordError: it is neither a JSON array, nor lines of JSON, nor one record.
        """
        self.path = path
        self._data: mmap.mmap | None = None
        found = np.fromiter(chain.from_iterable(self._find()), np.int64).reshape(-1, 2)
        self.spans: npt.NDArray[np.int64] = found.cumsum(axis=1)
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

    def _find(self) -> Iterator[Span]:
        data = self._map()
        start = skip_space(data, len(_BOM) if data[:3] == _BOM else 0)
        first = data[start : start + 1]
        if first and first not in b"[{":
            raise RecordError(
                f"{self.path}: begins with {first!r}; give a JSON array '[...]' of records or JSON "
                "lines '{...}'"
            )
        if first == b"[":
            return array_spans(self.path, data, start)
        return object_spans(self.path, data, start, fields=CONVERSATIONS)
