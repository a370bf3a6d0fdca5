"""Where each record of a JSON file begins and ends, in bounded memory."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import RecordError

FIRST_WINDOW_BYTES = 64 << 10
WINDOW_BYTES = 4 << 20
MAX_RECORD_BYTES = 256 << 20
_LEAST_TAIL_BYTES = 16 << 10
"""Of a window, in which a place to cut it is looked for."""
_SEPARATOR = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_CUT_VALUE = re.compile(r"[A-Za-z0-9+.\\-]*[ \t\r\n]*")
_WORD = re.compile(r"[A-Za-z0-9+.\\-]*")
_TEXT_SEPARATOR = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_SPACE = re.compile(rb"[ \t\r\n]*")
_HEAD = re.compile(rb'\{[ \t\r\n]*"[^"\\]{1,64}"')
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Span(NamedTuple):
    """Where one record lies in its source."""

    offset: int
    """Bytes from the start of the file."""
    length: int
    """Bytes."""


def line_spans(path: Path, data: mmap.mmap, start: int) -> Iterator[Span]:
    """Lines that are not blank, without the white space around them.

    Raises:
        RecordError: one is too long for a record.
    """
    at, size = start, len(data)
    while at < size:
        end = data.find(b"\n", at)
        end = size if end < 0 else end
        # One slice for the usual line; white space around a record is not part of it.
        line = data[at:end]
        record = line.strip()
        if len(record) > MAX_RECORD_BYTES:
            raise RecordError(
                f"{path}: byte {at}: the line has {len(record):,} bytes, a record may have "
                f"{MAX_RECORD_BYTES:,}; is the file in another format?"
            )
        if record:
            yield Span(at + line.index(record[:1]), len(record))
        at = end + 1


def object_spans(
    path: Path, data: mmap.mmap, start: int, *, fields: Collection[str]
) -> Iterator[Span]:
    """The one record that a file is, over however many lines; or else each line's.

    Args:
        path: of the file, for messages.
        data: the file.
        start: of its first object.
        fields: of which a record has one; none where any object is a record.

    Raises:
        RecordError: the file is one object that is no record, or a line is too long for one.
    """
    if _is_one_record(path, data, start, fields):
        return iter([Span(start, len(data[start:].rstrip()))])
    return line_spans(path, data, start)


def _is_one_record(path: Path, data: mmap.mmap, start: int, fields: Collection[str]) -> bool:
    try:
        whole = msgspec.json.decode(memoryview(data)[start:], type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return False
    is_record = not fields or any(field in whole for field in fields)
    if not is_record and path.suffix != ".jsonl":
        raise RecordError(
            f"{path}: byte {start}: the top level is an object with the keys "
            f"{', '.join(list(whole)[:8])}, not a list; give the list of records itself, or one "
            "record per line"
        )
    return True


def array_spans(
    path: Path, data: mmap.mmap, start: int, *, is_whole: bool = True
) -> Iterator[Span]:
    """Records of the array that begins at `start`, window by window.

    Where a window may be cut is guessed from how the first record begins, then proven: a slice that
    starts at a record and parses as the inside of an array ends at a record's end.

    Args:
        path: of the file, for messages.
        data: the file.
        start: of the array.
        is_whole: whether nothing but the array may follow.

    Raises:
        RecordError: the array is broken; the message names the byte.
    """
    at, count = skip_space(data, start + 1), 0
    if data[at : at + 1] != b"]":
        head = _HEAD.match(data, at)
        cut = (
            re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=" + re.escape(head[0]) + rb")")
            if head
            else None
        )
        gap, size = _SEPARATOR.match, min(FIRST_WINDOW_BYTES, WINDOW_BYTES)
        while True:
            lengths = _window_lengths(data, at, size, cut)
            is_all = size == WINDOW_BYTES or at + size >= len(data)
            # Who looks at the first records alone does not wait for thousands.
            size = min(2 * size, WINDOW_BYTES)
            if not lengths and not is_all:
                continue
            lengths = lengths or _slow_lengths(path, data, at, count)
            for length in lengths:
                yield Span(at, length)
                at += length
                match = gap(data, at)
                at = match.end() if match else skip_space(data, at)
            count += len(lengths)
            if not match:
                break
    _expect_end(path, data, at, count, is_whole=is_whole)


def _expect_end(path: Path, data: mmap.mmap, at: int, count: int, *, is_whole: bool) -> None:
    if data[at : at + 1] != b"]":
        found = repr(data[at : at + 20]) if at < len(data) else "the end of the file"
        raise RecordError(
            f"{path}: byte {at}: after record {count - 1} a ',' or ']' must follow, but "
            f"there is {found}; the file is cut off or damaged there"
        )
    rest = skip_space(data, at + 1)
    if rest < len(data) and is_whole:
        raise RecordError(
            f"{path}: byte {rest}: something follows the end of the array: "
            f"{data[rest : rest + 20]!r}; remove it, or join the arrays into one"
        )


def _window_lengths(
    data: mmap.mmap, at: int, size: int, cut: re.Pattern[bytes] | None
) -> list[int]:
    """Lengths of the whole records in a window, or [] where the fast way finds no proof."""
    stop = min(at + size, len(data))
    tail = max(at, stop - max(size // 16, _LEAST_TAIL_BYTES))
    # A copy: what Ctrl-C interrupts here would hold the mapped file, which then cannot be closed.
    window = data[tail:stop]
    ends = [tail + match.start() + 1 for match in cut.finditer(window)] if cut else []
    for end in reversed(ends[-3:]):
        try:
            records = _split(b"".join((b"[", memoryview(data)[at:end], b"]")))
        except (ValueError, RecursionError):
            continue
        return [len(memoryview(record)) for record in records]
    return []


def _slow_lengths(path: Path, data: mmap.mmap, at: int, count: int) -> list[int]:
    """Lengths of the records from `at`, one by one: exact for any file, and finds the broken byte.

    Raises:
        RecordError: the array is broken at or after `at` before another record ended.
    """
    size = WINDOW_BYTES
    while True:
        window = data[at : at + size]
        at_end = at + size >= len(data)
        text = window.decode("utf-8", "surrogateescape")
        lengths, error = _raw_lengths(text)
        if lengths:
            return lengths
        # What a cut-off window causes is found at its end, or where the text it cuts begins.
        inside = error.pos < len(text) - 16 and not error.msg.startswith("Unterminated")
        if at_end or inside or size > MAX_RECORD_BYTES:
            where = at + len(text[: error.pos].encode("utf-8", "surrogateescape"))
            # A word or a number may be cut in its middle.
            is_cut = at_end and _CUT_VALUE.fullmatch(text, error.pos)
            what = "is cut off" if is_cut else f"is broken ({error.msg})"
            if error.msg.startswith("Unterminated string"):
                what = "is cut off inside a text that begins there"
            raise RecordError(
                f"{path}: byte {where}: record {count} {what}; repair or write the file "
                f"again (the {count} records before it are whole)"
            )
        size *= 4


def _raw_lengths(text: str) -> tuple[list[int], json.JSONDecodeError]:
    """Byte lengths of the leading whole records of a text, and what stopped the reading."""
    # Python refuses to parse integers of more than 4,300 digits; here they are only skipped.
    decoder, at = json.JSONDecoder(parse_int=str), 0
    lengths: list[int] = []
    while True:
        try:
            _, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            return lengths, error
        except RecursionError:
            return lengths, json.JSONDecodeError("nested too deeply", text, at)
        if text[at] not in '{["' and _WORD.fullmatch(text, end):
            # A bare number at the very end may go on in the next window, as "0." does.
            return lengths, json.JSONDecodeError("cut off", text, end)
        lengths.append(len(text[at:end].encode("utf-8", "surrogateescape")))
        gap = _TEXT_SEPARATOR.match(text, end)
        if not gap:
            return lengths, json.JSONDecodeError("no ','", text, end)
        at = gap.end()


def skip_space(data: mmap.mmap, at: int) -> int:
    """The first byte that is no white space, at `at` or behind it."""
    match = _SPACE.match(data, at)
    return match.end() if match else at
