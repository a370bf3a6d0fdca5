"""What a source is, by its bytes and its fields and never by its name: whose format, and why."""

from __future__ import annotations

import shlex
import zlib
from collections import Counter
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from ...errors import RecordError
from ...loaders.format import INFO_FILE, MANIFEST_FILE
from ...loaders.loose_record import load_json
from ..source import Source, open_source
from .documents import document_of
from .record_forms import CHECK, Form, form_of

_PEEK_BYTES = 64 << 10
_RECORDS = 100
_UNPACKED = "convert does not read inside it"
_TABLE = "write its rows as JSON lines in LLaVA's form first"

_MAGIC: tuple[tuple[bytes, str, str, str], ...] = (
    (b"PK\x03\x04", "zip", "a zip archive", "unpack it: unzip SOURCE"),
    (b"PAR1", "parquet", "a Parquet table", CHECK),
    (b"ARROW1", "arrow", "an Arrow table", CHECK),
    (b"\xff\xff\xff\xff", "arrow", "a stream of Arrow tables, as datasets keeps it", CHECK),
    (b"\x28\xb5\x2f\xfd", "zstd", "compressed with zstd", "unpack it: zstd -d SOURCE"),
    (b"BZh", "bzip2", "compressed with bzip2", "unpack it: bunzip2 -k SOURCE"),
    (b"\xfd7zXZ\0", "xz", "compressed with xz", "unpack it: xz -dk SOURCE"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "a 7z archive", "unpack it: 7z x SOURCE"),
    (b"Rar!", "rar", "a RAR archive", "unpack it"),
    (b"\x89HDF", "hdf5", "an HDF5 file", _TABLE),
    (b"SQLite format 3\0", "sqlite", "an SQLite database", _TABLE),
    (b"%PDF", "pdf", "a PDF", "give the file of the conversations"),
    (b"\xff\xd8\xff", "image", "a JPEG image", "give the file of the conversations"),
    (b"\x89PNG", "image", "a PNG image", "give the file of the conversations"),
    (b"GIF8", "image", "a GIF image", "give the file of the conversations"),
    (b"version https://git-lfs", "lfs", "a pointer of Git LFS, not the file", "git lfs pull"),
    (b"\xff\xfe", "utf-16", "text in UTF-16", "iconv -f UTF-16 -t UTF-8 SOURCE > OUT.json"),
    (b"\xfe\xff", "utf-16", "text in UTF-16", "iconv -f UTF-16 -t UTF-8 SOURCE > OUT.json"),
)


class Recognized(msgspec.Struct, frozen=True, kw_only=True):
    """What a source is."""

    name: str
    """Short, for programs: `llava`, `messages`, `parquet`..."""
    title: str
    """In words."""
    why: str
    """What tells so."""
    layout: str = ""
    """`array`, `lines` or `object` of a JSON file, `folder`, `file`."""
    is_read: bool = False
    """Whether convert reads this form."""
    form: str = ""
    """What reads its records, of a JSON file: a name in form.FORMS."""
    under: str = ""
    """Field of the one top-level object whose list holds the records."""
    way_out: str = ""
    """What to do where it does not."""


def recognize(path: Path) -> Recognized:
    """Tell what a source is; nothing in it is trusted, run or unpacked beyond its begin.

    Raises:
        RecordError: it is missing or cannot be read.
    """
    if path.is_dir():
        return _folder(path)
    begin = _begin(path)
    for magic, name, title, way_out in _MAGIC:
        if begin.startswith(magic):
            return _file(name, title, f"it begins with {magic[:8]!r}", way_out)
    if begin[:2] == b"\x1f\x8b":
        return _gzip(begin)
    if begin[257:262] == b"ustar":
        return _file(
            "tar",
            "a tar archive",
            "it has a tar header",
            CHECK,
        )
    if begin[:1] == b"\x80" and begin[1:2] in b"\x02\x03\x04\x05":
        return _file(
            "pickle",
            "a Python pickle",
            f"it begins with {begin[:2]!r}",
            ("loading a pickle can run any program: ask for JSON from where it comes"),
        )
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"[", b"{"):
        return _json(path)
    return _text(begin, text)


def _json(path: Path) -> Recognized:
    try:
        source = open_source(path)
    except RecordError as error:
        return _file("text", "text", str(error), "")
    with closing(source.data):
        return recognize_records(source)


def recognize_records(source: Source) -> Recognized:
    """Tell what a JSON file holds, from its first records."""
    document = document_of(source)
    if document is not None:
        layout = "object" if document.is_one_object else "objects"
        return _recognized(document.form, layout, document.under)
    layout = "array" if source.is_array else "lines"
    records = []
    # What breaks the file is told elsewhere; the records before it have a form.
    with suppress(RecordError):
        for span in islice(source.spans(), _RECORDS):
            records.append(_load(source.data[span.offset : span.offset + span.length]))
    forms = [form_of(record) for record in records if record is not _BROKEN]
    if not forms:
        return _file("broken-json", "JSON without a single whole record", "none can be read", "")
    names = Counter(form.name for form in forms)
    name, count = names.most_common(1)[0]
    form = next(form for form in forms if form.name == name)
    if len(names) > 1:
        others = ", ".join(f"{n} {other}" for other, n in names.most_common()[1:])
        form = form._replace(
            why=f"{form.why}; {count} of the first {len(forms)} records ({others})"
        )
    return _recognized(form, layout)


_BROKEN = object()


def _load(raw: bytes) -> Any:
    try:
        # What the doctor takes from around a record must not change the form of the rest.
        return load_json(raw.removeprefix(b"\xef\xbb\xbf").rstrip(b", \t\r\n"))
    except (ValueError, RecursionError):
        return _BROKEN


def _recognized(form: Form, layout: str, under: str = "") -> Recognized:
    return Recognized(
        name=form.name,
        title=form.title,
        why=form.why,
        layout=layout,
        is_read=bool(form.read_as) or form.way_out == CHECK,
        form=form.read_as,
        under=under,
        way_out=form.way_out,
    )


def _folder(path: Path) -> Recognized:
    names = sorted(entry.name for entry in islice(path.iterdir(), 10_000))

    def found(name: str, title: str, why: str, way_out: str) -> Recognized:
        return Recognized(
            name=name,
            title=title,
            why=why,
            layout="folder",
            is_read=way_out == CHECK,
            way_out=way_out,
        )

    def some(suffix: str) -> list[str]:
        return [name for name in names if name.endswith(suffix)]

    if MANIFEST_FILE in names:
        return found(
            "dataset",
            "a converted dataset",
            f"it has {MANIFEST_FILE}",
            ("it is converted already: neva-prep verify checks it"),
        )
    if (path / INFO_FILE).exists():
        return found(
            "energon",
            "a dataset that energon prepared",
            f"it has {INFO_FILE}",
            ("it is converted already: the loaders read it as it is"),
        )
    if some(".tar"):
        return found(
            "webdataset", "a folder of tars (WebDataset)", f"it has {some('.tar')[0]}", CHECK
        )
    noted = [name for name in names if name in ("state.json", "dataset_dict.json")]
    if noted or some(".arrow"):
        why = f"it has {(noted or some('.arrow'))[0]}"
        return found("arrow", "a dataset saved by datasets", why, CHECK)
    parquet = some(".parquet") or _parquet_below(path)
    if parquet:
        return found("parquet", "a folder of Parquet tables", f"it has {parquet[0]}", CHECK)
    sources = some(".json") + some(".jsonl")
    if sources:
        return found(
            "folder",
            "a folder",
            f"it has {', '.join(sources[:3])}",
            f"give one of its files: neva-prep doctor {shlex.quote(str(path / sources[0]))}",
        )
    return found(
        "folder",
        "a folder without a source",
        f"it holds {len(names):,} names",
        ("give the JSON or JSONL file of the conversations"),
    )


def _parquet_below(path: Path) -> list[str]:
    """The first Parquet table in the folders of a folder, where a snapshot of a hub has them."""
    files = islice(path.glob("*/**/*.parquet"), 1)
    return [str(file.relative_to(path)) for file in files]


def _gzip(begin: bytes) -> Recognized:
    inside = b""
    try:
        inside = zlib.decompressobj(31).decompress(begin, 4096)
    except zlib.error:
        return _file(
            "gzip",
            "compressed with gzip, and damaged",
            "its begin cannot be unpacked",
            ("copy or download it again"),
        )
    if inside[257:262] == b"ustar":
        return _file(
            "tar.gz",
            "a tar archive, compressed with gzip",
            "a tar header is inside",
            ("unpack it: tar xzf SOURCE"),
        )
    what = "JSON" if inside.lstrip()[:1] in (b"[", b"{") else f"{inside[:12]!r}"
    return _file(
        "gzip",
        "compressed with gzip",
        f"inside it begins with {what}",
        ("unpack it: gunzip -k SOURCE"),
    )


def _text(begin: bytes, text: bytes) -> Recognized:
    if not text:
        return _file(
            "empty",
            "an empty file",
            "it has nothing but white space",
            ("copy or download it again"),
        )
    if text[:1] == b"<":
        return _file(
            "html",
            "a page of HTML or XML",
            f"it begins with {text[:15]!r}",
            ("a failed download often looks like this: download the file itself"),
        )
    if b"\0" in begin:
        return _file(
            "binary", "a binary file of an unknown kind", f"it begins with {begin[:8]!r}", ""
        )
    first, _, rest = text.partition(b"\n")
    for mark, name in ((b"\t", "tsv"), (b",", "csv"), (b";", "csv"), (b"|", "csv")):
        columns = first.count(mark)
        if columns and rest.partition(b"\n")[0].count(mark) >= columns:
            header = first.decode("utf-8", "replace").strip()[:100]
            return _file(name, f"a table ({name.upper()})", f"its first line is {header!r}", CHECK)
    return _file(
        "text",
        "text that is no JSON",
        f"it begins with {text[:20]!r}",
        ("give a JSON array or JSON lines"),
    )


def _file(name: str, title: str, why: str, way_out: str) -> Recognized:
    return Recognized(
        name=name, title=title, why=why, layout="file", is_read=way_out == CHECK, way_out=way_out
    )


def _begin(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise RecordError(f"{path}: is no regular file; save what the pipe gives, and look at that")
    try:
        with path.open("rb") as file:
            return file.read(_PEEK_BYTES)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}; check the path") from error
