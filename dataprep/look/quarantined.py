"""The rejected records of a conversion, by their number in quarantine.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from ...errors import ConfigError, ImageError, NevaPrepError, RecordError
from ...loaders.format import sample_key
from ...loaders.loose_record import load_json
from ...loaders.turns import check_placeholders, check_turns
from ..quarantine import Rejected
from ..readers.form import LLAVA, reader_of
from ..readers.record_forms import form_of
from ..source import open_source
from .record import view_record
from .source import Records
from .view import Place, RecordView, SampleView

_decode = msgspec.json.Decoder(Rejected).decode


class LookedQuarantine:
    """Rows of a quarantine.jsonl; none of them is a sample."""

    kind = "quarantine"
    images: Path | None = None
    split: str | None = None

    def __init__(self, path: Path) -> None:
        """Map the file; see `open_looked`."""
        self.path = path
        self._rows = Records(open_source(path))

    @property
    def splits(self) -> dict[str, int]:
        """It has none."""
        return {}

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> RecordView:
        """A rejected record, with the reason that the conversion gave."""
        row = self._row(index)
        raw = _raw(row)
        place = Place(dataset=row.source, index=row.index, line=row.line, offset=row.byte)
        return view_record(raw, place, key=sample_key(row.index), error=_fault(row, raw))

    def sample(self, index: int) -> SampleView:
        """Raises: a rejected record is no sample."""
        self._refuse(index)

    def messages(self, index: int) -> list[dict[str, Any]]:
        """Raises: a rejected record is no sample."""
        self._refuse(index)

    def encodable(self, index: int) -> Any:
        """Raises: a rejected record is no sample."""
        self._refuse(index)

    def find(self, *, key: str | None = None, id: str | None = None) -> int:
        """Number of the row of a record, by the key that it would have, or its id."""
        for index in range(len(self)):
            row = self._row(index)
            if (key is not None and sample_key(row.index) == key.zfill(9)) or (
                id is not None and str(row.id) == id
            ):
                return index
        raise ConfigError(f"{self.path}: has no record with key {key!r} or id {id!r}")

    def quarantined(self) -> Iterator[RecordView]:
        """All of them."""
        return (self.record(index) for index in range(len(self)))

    def _row(self, index: int) -> Rejected:
        try:
            return _decode(self._rows[index])
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{self.path}: line {self._rows.line(index)} is no row of a quarantine: {error}"
            ) from error

    def _refuse(self, index: int) -> NoReturn:
        row = self._row(index)
        raise RecordError(row.message, reason=row.reason)


def _raw(row: Rejected) -> bytes:
    if isinstance(row.record, msgspec.Raw):
        return bytes(row.record)
    return row.record_text.encode() if isinstance(row.record_text, str) else b""


def _form(raw: bytes) -> str:
    try:
        return form_of(load_json(raw)).read_as or LLAVA
    except (ValueError, RecursionError):
        return LLAVA


def _fault(row: Rejected, raw: bytes) -> NevaPrepError:
    """The row's message, cut down to what the checks say, which tells the place in the record."""
    try:
        record = reader_of(_form(raw))(raw).record
        check_placeholders(len(record.images), check_turns(record.turns), insert=False)
    except RecordError as error:
        if error.reason == row.reason:
            return RecordError(f"{error}; {row.fix}", reason=row.reason)
    start = row.message.find("image ")
    if start >= 0:
        return ImageError(row.message[start:], reason=row.reason)
    return RecordError(row.message, reason=row.reason)
