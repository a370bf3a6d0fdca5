"""A WebDataset: each run of members with one key is a record; images stay in their tars."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from ...errors import RecordError
from ..image import EXTENSIONS
from ..source import MAX_RECORD_BYTES, Source
from ..stores.archive_file import ArchiveFile
from ..stores.archive_index import Entry
from ..stores.tar_images import PREFIX, scan_tar, tar_files
from .columns import put_images
from .record import load_json
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
        RecordError: a text in it is too large.
    """
    tars = tar_files(path)
    why = f"a WebDataset of {len(tars):,} tar{'s' * (len(tars) > 1)}"
    source = staged(work, tars, lambda: _records(tars), name=path.name, why=why, form=form)
    folder = path if path.is_dir() else path.parent
    return source, f"{PREFIX}{os.path.realpath(path)}" if folder else ""


def _records(tars: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    for name, path in tars.items():
        file = ArchiveFile(path)
        members = ((*_split(member), entry) for member, entry in scan_tar(path))
        for key, group in groupby(members, key=lambda member: member[0]):
            yield _record(name, key, list(group), file)


def _split(name: str) -> tuple[str, str]:
    """Key and extension, as webdataset tells them: at the first dot of the name."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    key, _, extension = base.partition(".")
    return f"{folder}{slash}{key}", extension


def _record(tar: str, key: str, members: list[_Member], file: ArchiveFile) -> dict[str, Any]:
    record: dict[str, Any] = {"id": key}
    images: list[str] = []
    texts: dict[str, str] = {}
    others: list[str] = []
    for _, extension, entry in members:
        last = extension.rpartition(".")[2].lower()
        member = f"{key}.{extension}"
        if last in _IMAGES:
            images.append(f"{tar}/{member}")
        elif last == "json":
            _add_json(record, _read(file, member, entry), extension)
        elif last in _CAPTIONS:
            name = extension.rpartition(".")[0] or "caption"
            texts[name] = _read(file, member, entry).decode("utf-8", "replace")
        elif last in _OTHER_MEDIA:
            record[_OTHER_MEDIA[last]] = f"{tar}/{member}"
        else:
            others.append(member)
    if len(set(images)) < len(images):
        raise RecordError(
            f"{file.path}: two members of sample {key!r} have one name; write the tar again"
        )
    for name, text in texts.items():
        record.setdefault(name, text)
    if others:
        record["other_members"] = others
    put_images(record, images)
    if texts and not images:
        # So it is known for a caption, whose image is missing.
        record["image"] = None
    return record


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
    return file.read(entry.offset, entry.size)
