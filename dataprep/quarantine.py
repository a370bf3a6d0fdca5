"""quarantine.jsonl: every rejected record, why, where it stands, and what would fix it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..errors import NevaPrepError, RecordError, ShardError
from ..loaders.loose_record import load_json
from .readers.record import Record
from .reasons import REJECTIONS
from .source import Source

_NO_JSON = object()


class Rejected(msgspec.Struct, kw_only=True):
    """A row of quarantine.jsonl."""

    source: str
    """File name of the source."""
    index: int
    """Of the record in the source, from 0."""
    line: int | None = None
    """Of a JSON source, from 1, where the record begins."""
    byte: int | None = None
    """Of a JSON source, where the record begins."""
    id: str | int | float | None = None
    reason: str
    """One of reasons.REJECTIONS."""
    message: str
    fix: str
    record: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The record itself; correct it here, or correct its images, and convert with --retry."""
    record_text: str | msgspec.UnsetType = msgspec.UNSET
    """Its text instead, where that is no JSON, or none that a strict reader takes."""


def reject(
    source: str, index: int, offset: int, raw: bytes, record: Record | None, error: NevaPrepError
) -> Rejected:
    """A quarantine row.

    Args:
        source: file name of the source.
        index: of the record in it.
        offset: byte of the source where the record begins.
        raw: the record's bytes.
        record: the same, where it could be parsed.
        error: what is wrong; its reason is one of REJECTIONS.
    """
    value = _parse(raw)
    identity = record.id if record else value.get("id") if isinstance(value, dict) else None
    if isinstance(identity, bool) or not isinstance(identity, str | int | float):
        identity = None
    where = f"{source}: record {index}" + ("" if identity is None else f" (id {identity!r})")
    row = Rejected(
        source=source,
        index=index,
        byte=offset,
        id=_text(identity) if isinstance(identity, str) else identity,
        reason=error.reason,
        message=_text(f"{where}: {error}; {REJECTIONS[error.reason]}"),
        fix=REJECTIONS[error.reason],
    )
    if value is not _NO_JSON and _is_strict(raw):
        row.record = msgspec.Raw(_unfold(raw))
    else:
        row.record_text = raw.decode("utf-8", "backslashreplace")
    return row


def numbered(rows: Iterable[Rejected], source: Source) -> Iterator[Rejected]:
    """Rows, in the order of the source, with their line numbers filled in.

    Of what is no JSON the records were written to a file of lines first, which nobody has.
    """
    line, seen = 1, 0
    for row in rows:
        if source.container:
            row.byte = None
        elif row.byte is not None:
            line, seen = line + _count_lines(source, seen, row.byte), row.byte
            row.line = line
        yield row


def record_bytes(row: Rejected) -> bytes | None:
    """The record of a row on one line, if by now it is a JSON object."""
    if isinstance(row.record, msgspec.Raw):
        raw = bytes(row.record)
    elif isinstance(row.record_text, str):
        value = _parse(row.record_text.encode())
        raw = b"" if value is _NO_JSON else _unfold(row.record_text.strip().encode())
    else:
        raw = b""
    return raw if raw.startswith(b"{") else None


def read_quarantine(path: Path) -> Iterator[Rejected]:
    """Rows of a quarantine.jsonl.

    Raises:
        RecordError: a line is no row; the message names the line.
        ShardError: the file cannot be read.
    """
    decode = msgspec.json.Decoder(Rejected).decode
    try:
        file = path.open("rb")
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield decode(line)
            except (ValueError, RecursionError) as error:
                raise RecordError(
                    f"{path}: line {number} is no row of a quarantine: {error}; keep its fields "
                    "'source', 'index', 'reason', 'message', 'fix' and one JSON object per line"
                ) from error


def _count_lines(source: Source, start: int, stop: int) -> int:
    step = 4 << 20
    return sum(
        source.data[at : min(at + step, stop)].count(b"\n") for at in range(start, stop, step)
    )


def _is_strict(raw: bytes) -> bool:
    """Whether a row that holds this can be read again: half a surrogate pair, say, prevents it."""
    try:
        # A hundred levels to spare: a row must be readable from wherever it is read.
        msgspec.json.decode(b"[" * 100 + raw + b"]" * 100, type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return True


def _unfold(raw: bytes) -> bytes:
    """A JSON text on one line: in it a line break stands only where a space may."""
    return raw.replace(b"\n", b" ").replace(b"\r", b" ")


def _parse(raw: bytes) -> Any:
    try:
        return load_json(raw)
    except (ValueError, RecursionError):
        return _NO_JSON


def _text(value: str) -> str:
    """Text that can be written as UTF-8: half a surrogate pair becomes an escape."""
    return value.encode("utf-8", "backslashreplace").decode()
