"""Values of a column of Arrow, as JSON has them: times become texts, down to nanoseconds."""

from __future__ import annotations

from typing import Any

from ...errors import RecordError
from ..stores.table_file import arrow_errors

_TIMES = ("timestamp", "date", "time", "duration")
_FINE = ("timestamp[ns", "time64[ns", "duration")
"""Types for which Python has none, or none that goes as far."""
_BEYOND = "<value out of range"
"""Begin of what Arrow writes instead of a time that no clock shows."""
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def values_of(array: Any, where: str) -> list[Any]:
    """The values of a column, as they are staged.

    Args:
        array: some rows of the column.
        where: names the column, for messages.

    Raises:
        RecordError: it holds a time that cannot be written.
        Exception: what pyarrow raises of other values that it cannot read; see arrow_errors.
    """
    if not _holds(array.type, _TIMES):
        return list(array.to_pylist())
    try:
        return _values(array)
    except _errors() as error:
        raise RecordError(
            f"{where} holds a time that cannot be written: {' '.join(str(error).split())[:200]}; "
            "write the column as text, or leave it out of the table"
        ) from error


def _errors() -> tuple[type[Exception], ...]:
    return (OverflowError, *arrow_errors())


def _values(array: Any) -> list[Any]:
    kind = array.type
    name = str(kind)
    if name.startswith(_FINE):
        return _texts(array)
    if not _holds(kind, _FINE):
        return list(array.to_pylist())
    if name.startswith("dictionary"):
        return _values(array.dictionary_decode())
    if hasattr(kind, "value_field"):
        return _lists(array)
    if name.startswith("struct"):
        return _objects(array)
    raise OverflowError(f"the type {name}")


def _lists(array: Any) -> list[list[Any] | None]:
    """Lists of times; of one that is null, `flatten` leaves out what lies beneath it."""
    flat, at = _values(array.flatten()), 0
    found: list[list[Any] | None] = []
    for length in array.value_lengths().to_pylist():
        found.append(None if length is None else flat[at : at + length])
        at += length or 0
    return found


def _objects(array: Any) -> list[dict[str, Any] | None]:
    kind, valid = array.type, array.is_valid().to_pylist()
    names = [kind.field(number).name for number in range(kind.num_fields)]
    rows = zip(*map(_values, array.flatten()), strict=True)
    return [
        dict(zip(names, row, strict=True)) if ok else None
        for ok, row in zip(valid, rows, strict=True)
    ]


def _texts(array: Any) -> list[str | None]:
    """Times in ISO 8601, down to the nanosecond."""
    import pyarrow as pa

    kind = array.type
    if str(kind).startswith("duration"):
        return [_duration(ticks, kind.unit) for ticks in array.cast(pa.int64()).to_pylist()]
    return [_time(text) for text in array.cast(pa.string()).to_pylist()]


def _time(text: str | None) -> str | None:
    """A time in ISO 8601: Arrow writes `2026-01-02 03:04:05.006+0100`."""
    if text is None:
        return None
    if text.startswith(_BEYOND):
        raise OverflowError(text)
    text = text.replace(" ", "T", 1)
    has_offset = len(text) > 5 and text[-5] in "+-" and "T" in text
    return f"{text[:-2]}:{text[-2:]}" if has_offset else text


def _duration(ticks: int | None, unit: str) -> str | None:
    """A duration in ISO 8601.

    Example:
        >>> _duration(-1_500, "ms")
        '-PT1.5S'
    """
    if ticks is None:
        return None
    per_second = _PER_SECOND[unit]
    seconds, rest = divmod(abs(ticks), per_second)
    part = f"{rest + per_second}"[1:].rstrip("0")
    return f"{'-' if ticks < 0 else ''}PT{seconds}{part and '.'}{part}S"


def _holds(kind: Any, begins: tuple[str, ...]) -> bool:
    """Whether values of a type, or values within them, have a type whose name begins so."""
    if str(kind).startswith(begins):
        return True
    if hasattr(kind, "value_type"):
        return _holds(kind.value_type, begins)
    inside = range(getattr(kind, "num_fields", 0))
    return any(_holds(kind.field(number).type, begins) for number in inside)
