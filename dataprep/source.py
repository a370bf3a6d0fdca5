"""A source file: where each record of a JSON array or a JSONL file begins and ends.

The file is memory-mapped and never held: a record is an (offset, length) in it.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from ..errors import RecordError
from ..loaders.format import INFO_FILE, MANIFEST_FILE
from .json_object import start_of_field
from .readers.form import LLAVA, ReadRecord, reader_of

FIRST_WINDOW_BYTES = 64 << 10
WINDOW_BYTES = 4 << 20
MAX_RECORD_BYTES = 256 << 20
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An open source file."""

    path: Path
    name: str
    """File name of what the user gave, for messages."""
    form: str
    """Of its records: `llava`, or another of readers.form.FORMS."""
    is_array: bool
    """Whether it is one JSON array, not JSON lines."""
    data: mmap.mmap
    start: int
    """Offset of the first byte of content, after a byte order mark and white space."""
    has_byte_order_mark: bool
    under: str = ""
    """Field of the one object that the file is, whose list holds the records; usually none."""
    why: str = ""
    """What tells its form, where that was recognized."""
    container: str = ""
    """`parquet`, `csv`, ... of which the file was made, `reader` where a user's function made it;
    none of JSON."""
    has_plain_heads: bool = False
    """Whether ids and images stand in LLaVA's fields, in whatever form the texts are."""

    @property
    def format(self) -> str:
        """For reports: `llava-json`, `sharegpt-jsonl`, `vqa-parquet`, ..."""
        lines = "json" if self.is_array or self.under else "jsonl"
        return f"{self.form}-{self.container or lines}"

    def reader(self) -> ReadRecord:
        """What reads one of its records."""
        return reader_of(self.form)

    def spans(self) -> Iterator[Span]:
        """Each record's place, in order, in bounded memory.

        Raises:
            RecordError: the file as a whole is broken; the message names the byte. (A broken
                line of JSONL is a record like any other, and is judged later.)
        """
        if self.is_array:
            return _array_spans(self, self.start)
        if self.under:
            return _array_spans(self, start_of_field(self.path, self.data, self.start, self.under))
        if _is_one_record(self):
            return iter([Span(self.start, len(self.data[self.start :].rstrip()))])
        return _line_spans(self)

    def fingerprint(self) -> str:
        """xxh3_128 of the whole file, in hexadecimal."""
        digest = xxhash.xxh3_128()
        with memoryview(self.data) as view:
            for at in range(0, len(view), 64 << 20):
                digest.update(view[at : at + (64 << 20)])
        return digest.hexdigest()


def open_source(
    path: Path, form: str = LLAVA, name: str = "", under: str = "", why: str = ""
) -> Source:
    """Map a source file and tell an array from lines.

    Args:
        path: the file.
        form: of its records.
        name: of what the user gave, where the file was made of that.
        under: field whose list holds the records, where the file is one object.
        why: what tells the form, where that was recognized.

    Raises:
        RecordError: it is missing, empty, not UTF-8, or neither a JSON array nor JSON lines.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise RecordError(f"{path}: is no regular file; save what the pipe gives, and convert that")
    if path.is_dir():
        raise RecordError(f"{path}: {_why_no_folder(path)}")
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise RecordError(f"{path}: the file is empty; give a JSON array or JSON lines") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RecordError(f"{path}: is UTF-16; save it as UTF-8")
    has_mark = data[:3] == b"\xef\xbb\xbf"
    start = _skip_space(data, 3 if has_mark else 0)
    first = data[start : start + 1]
    if not first:
        raise RecordError(f"{path}: holds only white space; give a JSON array or JSON lines")
    if first not in b"[{":
        raise RecordError(
            f"{path}: byte {start}: begins with {first!r}; give a JSON array '[...]' of records or "
            "JSON lines '{...}'"
        )
    return Source(
        path=path,
        name=name or path.name,
        form=form,
        is_array=first == b"[",
        data=data,
        start=start,
        has_byte_order_mark=has_mark,
        under=under,
        why=why,
    )


def _is_one_record(source: Source) -> bool:
    """Whether the whole file is one record; an object that is no record is refused."""
    try:
        whole = msgspec.json.decode(
            memoryview(source.data)[source.start :], type=dict[str, msgspec.Raw]
        )
    except (ValueError, RecursionError):
        return False
    is_record = source.form != LLAVA or "conversations" in whole
    if not is_record and source.path.suffix != ".jsonl":
        raise RecordError(
            f"{source.path}: byte {source.start}: the top level is an object with the keys "
            f"{', '.join(list(whole)[:8])}, not a list; give the list of records itself, or one "
            "record per line"
        )
    return True


def _line_spans(source: Source) -> Iterator[Span]:
    data, at, size = source.data, source.start, len(source.data)
    while at < size:
        end = data.find(b"\n", at)
        end = size if end < 0 else end
        # One slice for the usual line; white space around a record is not part of it.
        line = data[at:end]
        record = line.strip()
        if len(record) > MAX_RECORD_BYTES:
            raise RecordError(
                f"{source.path}: byte {at}: the line has {len(record):,} bytes, a record may have "
                f"{MAX_RECORD_BYTES:,}; is the file in another format?"
            )
        if record:
            yield Span(at + line.index(record[:1]), len(record))
        at = end + 1


def _array_spans(source: Source, start: int) -> Iterator[Span]:
    """Records of the array that begins at `start`, window by window.

    Where a window may be cut is guessed from how the first record begins, then proven: a slice that
    starts at a record and parses as the inside of an array ends at a record's end.
    """
    data, at, count = source.data, _skip_space(source.data, start + 1), 0
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
            lengths = lengths or _slow_lengths(source, at, count)
            for length in lengths:
                yield Span(at, length)
                at += length
                match = gap(data, at)
                at = match.end() if match else _skip_space(data, at)
            count += len(lengths)
            if not match:
                break
    _expect_end(source, at, count)


def _expect_end(source: Source, at: int, count: int) -> None:
    data = source.data
    if data[at : at + 1] != b"]":
        found = repr(data[at : at + 20]) if at < len(data) else "the end of the file"
        raise RecordError(
            f"{source.path}: byte {at}: after record {count - 1} a ',' or ']' must follow, but "
            f"there is {found}; the file is cut off or damaged there"
        )
    rest = _skip_space(data, at + 1)
    if rest < len(data) and not source.under:
        raise RecordError(
            f"{source.path}: byte {rest}: something follows the end of the array: "
            f"{data[rest : rest + 20]!r}; remove it, or join the arrays into one"
        )


def _window_lengths(
    data: mmap.mmap, at: int, size: int, cut: re.Pattern[bytes] | None
) -> list[int]:
    """Lengths of the whole records in a window, or [] where the fast way finds no proof."""
    window = data[at : at + size]
    tail = max(0, len(window) - (256 << 10))
    ends = [match.start() + 1 for match in cut.finditer(window, tail)] if cut else []
    for end in reversed(ends[-3:]):
        try:
            records = _split(b"[" + window[:end] + b"]")
        except (ValueError, RecursionError):
            continue
        return [len(memoryview(record)) for record in records]
    return []


def _slow_lengths(source: Source, at: int, count: int) -> list[int]:
    """Lengths of the records from `at`, one by one: exact for any file, and finds the broken byte.

    Raises:
        RecordError: the array is broken at or after `at` before another record ended.
    """
    size = WINDOW_BYTES
    while True:
        window = source.data[at : at + size]
        at_end = at + size >= len(source.data)
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
                f"{source.path}: byte {where}: record {count} {what}; repair or write the file "
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


def _why_no_folder(path: Path) -> str:
    if any((path / name).exists() for name in (INFO_FILE, MANIFEST_FILE)):
        return (
            "is a dataset already; give the source that it was made of, or look at it with "
            "`neva-prep inspect`"
        )
    return (
        "is a folder without tables or tars; give the file that has the records, and the folder "
        "of its images as --images"
    )


def _skip_space(data: mmap.mmap, at: int) -> int:
    match = _SPACE.match(data, at)
    return match.end() if match else at
