"""A source file: where each record of a JSON array or a JSONL file begins and ends.

The file is memory-mapped and never held: a record is an (offset, length) in it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from ..errors import RecordError
from ..loaders.format import INFO_FILE, MANIFEST_FILE
from ..loaders.spans import Span, array_spans, object_spans, skip_space
from .json_object import start_of_field
from .readers.form import LLAVA, ReadRecord, reader_of


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
            return array_spans(self.path, self.data, self.start)
        if self.under:
            return array_spans(
                self.path,
                self.data,
                start_of_field(self.path, self.data, self.start, self.under),
                is_whole=False,
            )
        fields = ("conversations",) if self.form == LLAVA else ()
        return object_spans(self.path, self.data, self.start, fields=fields)

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
    start = skip_space(data, 3 if has_mark else 0)
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
