"""A WebDataset: each run of members with one key is a record; images stay in their tars."""

from __future__ import annotations

import codecs
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash

from ...errors import RecordError
from ...loaders.image_header import EXTENSIONS
from ...loaders.loose_record import load_json
from ...loaders.spans import MAX_RECORD_BYTES
from ..source import Source
from ..stores.archive_file import ArchiveFile
from ..stores.archive_index import Entry, plain_name
from ..stores.tar_images import PREFIX, scan_tar, tar_files
from .columns import put_images
from .staging import staged

_IMAGES = frozenset(("jpeg", "jpe", "jfif", "tiff", "apng", *EXTENSIONS.values()))
_CAPTIONS = ("txt", "caption", "text", "cap")
_OTHER_MEDIA = {"mp4": "video", "avi": "video", "webm": "video", "mkv": "video", "mov": "video"}
_OTHER_MEDIA |= {"wav": "audio", "mp3": "audio", "flac": "audio", "ogg": "audio", "m4a": "audio"}
_Member = tuple[str, str, Entry]


def open_webdataset(path: Path, work: Path, form: str) -> tuple[Source, str]:
    """Open a tar or a folder of tars as a source; nothing is unpacked.

    Args:
        path: of the tar or the folder.
        work: folder for the texts.
        form: of the samples' JSON as records; `auto` to recognize it.

    Returns:
        The source, and where its images lie.

    Raises:
        ConfigError: a tar is damaged.
        RecordError: a text in it is too large, or two images in a tar have one name.
    """
    tars = tar_files(path)
    why = f"a WebDataset of {len(tars):,} tar{'s' * (len(tars) > 1)}"
    source = staged(work, tars, lambda: _records(tars), name=path.name, why=why, form=form)
    folder = path if path.is_dir() else path.parent
    return source, f"{PREFIX}{os.path.realpath(path)}" if folder else ""


def _records(tars: Mapping[str, Path]) -> Iterator[dict[str, Any] | msgspec.Raw]:
    for name, path in tars.items():
        file = ArchiveFile(path)
        hashes = array("Q")
        for key, group in groupby(_members(path, hashes), key=lambda member: member[0]):
            yield _record(name, key, list(group), file)
        _refuse_repeated(path, hashes)


def _members(path: Path, hashes: array[int]) -> Iterator[_Member]:
    """Members by key and extension; hashes of the images' names are added to those given."""
    for name, entry in scan_tar(path):
        key, extension = _split(name)
        if _last(extension) in _IMAGES:
            hashes.append(_hash(name))
        yield key, extension, entry


def _refuse_repeated(path: Path, hashes: array[int]) -> None:
    """Images are found by their names: of two with one name, both samples would show the last."""
    ordered = np.sort(np.asarray(hashes))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if repeated:
        name = next(name for name, _ in scan_tar(path) if _hash(name) in repeated)
        raise RecordError(
            f"{path}: has two members named {name!r}; write the tar again, with a key of its own "
            "for each sample"
        )


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(plain_name(name).encode("utf-8", "surrogateescape"))


def _split(name: str) -> tuple[str, str]:
    """Key and extension, as webdataset tells them: at the first dot of the name."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    key, _, extension = base.partition(".")
    return f"{folder}{slash}{key}", extension


def _last(extension: str) -> str:
    return extension.rpartition(".")[2].lower()


def _record(
    tar: str, key: str, members: list[_Member], file: ArchiveFile
) -> dict[str, Any] | msgspec.Raw:
    """A sample as a record; where a text is no UTF-8, as JSON that is none either."""
    record: dict[str, Any] = {"id": key}
    images: list[str] = []
    texts: dict[str, bytes] = {}
    others: list[str] = []
    for _, extension, entry in members:
        last = _last(extension)
        member = f"{key}.{extension}"
        if last in _IMAGES:
            images.append(f"{tar}/{member}")
        elif last == "json":
            _add_json(record, _read(file, member, entry), extension)
        elif last in _CAPTIONS:
            texts[extension] = _read(file, member, entry)
        elif last in _OTHER_MEDIA:
            record[_OTHER_MEDIA[last]] = f"{tar}/{member}"
        else:
            others.append(member)
    is_utf8 = _add_texts(record, texts)
    if others:
        record["other_members"] = others
    put_images(record, images)
    if texts and not images:
        # So it is known for a caption, whose image is missing.
        record["image"] = None
    return record if is_utf8 else _as_it_is(record)


def _add_texts(record: dict[str, Any], texts: Mapping[str, bytes]) -> bool:
    """Take over what members of text say, and tell whether all are UTF-8.

    What the JSON says under the same name is kept as `source_NAME` where it is something else, and
    so is a second caption as `member_EXTENSION`.
    """
    is_utf8, taken = True, set()
    for extension in sorted(texts, key=lambda extension: _CAPTIONS.index(_last(extension))):
        name, content = extension.rpartition(".")[0] or "caption", texts[extension]
        try:
            text = content.decode()
        except UnicodeDecodeError:
            is_utf8, text = False, content.decode("utf-8", "surrogateescape")
        if name in taken:
            name = f"member_{extension}"
        elif record.get(name, text) != text:
            record[f"source_{name}"] = record[name]
        record[name] = text
        taken.add(name)
    return is_utf8


def _as_it_is(record: dict[str, Any]) -> msgspec.Raw:
    """JSON with the very bytes of texts that are no UTF-8: where records are judged, it is told."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        return msgspec.Raw(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        # Half a surrogate pair elsewhere: no UTF-8, too.
        return msgspec.Raw(text.encode("utf-8", "surrogatepass"))


def _add_json(record: dict[str, Any], content: bytes, extension: str) -> None:
    """Take over what a JSON member says; what is no object is kept as it is, for whoever looks."""
    try:
        value = load_json(content)
    except (ValueError, RecursionError):
        value = content.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        record.update(value)
    else:
        record[f"member_{extension}"] = value


def _read(file: ArchiveFile, member: str, entry: Entry) -> bytes:
    if entry.size > MAX_RECORD_BYTES:
        raise RecordError(
            f"{file.path}: member {member!r} has {entry.size:,} bytes, a text may have "
            f"{MAX_RECORD_BYTES:,}; leave it out"
        )
    return file.read(entry.offset, entry.size).removeprefix(codecs.BOM_UTF8)
