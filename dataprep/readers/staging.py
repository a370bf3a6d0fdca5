"""What is no list of JSON records becomes one: JSON lines in the work folder, texts only."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import xxhash

from ...errors import RecordError
from ..files import TEMPORARY_SUFFIX, told
from ..source import Source
from .open_json import open_json

_BUFFER_BYTES = 1 << 20
_VERSION = 2
"""Of what the readers write: with another one, nothing staged before is taken for it."""


def staged(
    work: Path,
    files: Mapping[str, Path],
    rows: Callable[[], Iterable[Any]],
    *,
    name: str,
    why: str,
    form: str,
    options: object = None,
    has_plain_heads: bool = False,
) -> Source:
    """Write records to the work folder, one a line, and open that; what is there is used.

    Args:
        work: folder for it.
        files: that the records come from.
        rows: begins to read the records.
        name: of what the user gave.
        why: what tells what it is.
        form: of its records; `auto` to recognize it.
        options: anything else that decides what is written.
        has_plain_heads: see Source.

    Raises:
        RecordError: there is no record, or what reading them raises.
        ShardError: the disk refuses.
    """
    path = work / f"records-{_key(files, options)}.jsonl"
    if not path.exists():
        _write(path, rows(), name)
    opened = open_json(path, form)
    said = f"{why}; {opened.why}" if opened.why else why
    return replace(opened, name=name, under="", why=said, has_plain_heads=has_plain_heads)


def _write(path: Path, rows: Iterable[Any], name: str) -> None:
    encode, buffer = msgspec.json.Encoder().encode_into, bytearray()
    # A name of its own: the tasks of one conversion may stage at the same time.
    with _made(path) as file:
        for row in rows:
            end = len(buffer)
            try:
                encode(row, buffer, end)
            except UnicodeEncodeError:
                # Half a surrogate pair: as an escape it comes to where records are judged.
                buffer[end:] = json.dumps(row).encode()
            buffer += b"\n"
            if len(buffer) > _BUFFER_BYTES:
                with told(path):
                    file.write(buffer)
                buffer.clear()
        with told(path):
            file.write(buffer)
        if not file.tell():
            raise RecordError(f"{name}: holds no record; there is nothing to convert")


@contextmanager
def _made(path: Path) -> Iterator[BinaryIO]:
    """A file under another name, which gets its own once it is whole."""
    with told(path):
        fd, name = tempfile.mkstemp(TEMPORARY_SUFFIX, dir=path.parent)
    try:
        with open(fd, "wb") as file:
            yield file
            with told(path):
                file.flush()
                os.fsync(fd)
        with told(path):
            os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _key(files: Mapping[str, Path], options: object) -> str:
    digest = xxhash.xxh3_64(repr((_VERSION, options)).encode())
    for name, path in files.items():
        with told(path, "read"):
            status = path.stat()
        place = name, os.path.realpath(path), status.st_size, status.st_mtime_ns
        digest.update(repr(place).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
