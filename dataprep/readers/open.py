"""Open whatever the user names as SOURCE."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ...loaders.remote import is_remote, name_of
from ..fetch import fetch_source
from ..options import ConvertOptions
from ..source import Source
from ..stores.open import HELD, held_elsewhere, open_images, place_of_images
from ..stores.store import ImageStore
from ..stores.table_files import is_pattern
from .open_json import AUTO, open_json
from .recognize import Recognized, recognize
from .record_forms import CHECK

CONTAINERS = frozenset(
    ("parquet", "arrow", "csv", "tsv", "tar", "webdataset", "coco-captions", "vqav2-questions")
)
"""Formats that are no list of JSON records; readers/recognize.py gives them these names."""


class Opened(NamedTuple):
    """A source, ready to be read record by record."""

    source: Source
    images: str
    """Where its images lie unless the user says otherwise, as `open_images` takes it."""


def open_any(path: Path, work: Path, options: ConvertOptions | None = None) -> Opened:
    """Open a source of any format.

    JSON is read where it lies, record by record. What is no list of JSON records (a table, a folder
    of tars) is first written to `work` as JSON lines, texts only, one a record.

    Args:
        path: what the user gave.
        work: folder for what must be made of it.
        options: say what it is, where that is not to be recognized.

    Raises:
        ConfigError: there is no such function or column, or a package is missing.
        RecordError: it is broken as a whole, or of no known format.
    """
    options = options or ConvertOptions()
    if is_remote(path):
        local, lying = fetch_source(path, work)
        source, images = open_any(local, work, options)
        # What would lie beside the copy, or in it, lies where it was copied from.
        if images in (str(local), str(local.parent)):
            return Opened(source, lying)
        return Opened(source, held_elsewhere(images, name_of(path)))
    if options.reader is not None:
        from .own import stage

        source = replace(stage(path, work, options.reader), container="reader")
        return Opened(source, str(path if path.is_dir() else path.parent))
    given = options.format in CONTAINERS
    kind = options.format if given else _kind(path)
    form = AUTO if given else options.format
    if kind not in CONTAINERS:
        return Opened(open_json(path, form), str(path.parent))
    source, images = _open_container(kind, path, work, form, options)
    # What the bytes were is told by who read them: a table may be another one than it is called.
    return Opened(replace(source, container=source.container or kind), images)


def look_into(path: Path, images: str | None) -> tuple[Source, ImageStore | None]:
    """Open a source of any format to look at it; nothing of it stays on the disk.

    Args:
        path: what the user gave.
        images: where its images lie; None to look at its texts alone, unless it holds them.

    Raises:
        ConfigError: there is no such place, or a package is missing.
        RecordError: it is broken as a whole, or of no known format.
    """
    # What is mapped stays so when the folder goes.
    with tempfile.TemporaryDirectory(prefix="neva-prep-") as folder:
        source, lying = open_any(path, Path(folder))
        is_wanted = images is not None or lying.startswith(HELD)
        place = place_of_images(lying, images)
        store = open_images(place, Path(folder)) if is_wanted else None
    return replace(source, path=path), store


def _open_container(
    kind: str, path: Path, work: Path, form: str, options: ConvertOptions
) -> tuple[Source, str]:
    if kind in ("parquet", "arrow"):
        from .arrow_table import open_arrow_table

        return open_arrow_table(path, work, form, options.columns)
    if kind in ("csv", "tsv"):
        from .text_table import open_text_table

        return open_text_table(path, work, form, options.columns)
    if kind in ("tar", "webdataset"):
        from .webdataset import open_webdataset

        return open_webdataset(path, work, form)
    if kind == "coco-captions":
        from .coco import open_coco

        return open_coco(path, work)
    from .vqa import open_vqa

    answers = options.annotations
    return open_vqa(path, work, Path(answers) if answers else None)


def recognize_source(path: Path) -> Recognized:
    """What a source is, and how it is opened where its format is not given.

    Raises:
        RecordError: it is missing or cannot be read.
    """
    found = recognize(path)
    suffix = path.suffix.lower()
    if found.name != "text" or suffix not in (".csv", ".tsv"):
        return found
    # A table of one column, or with line breaks in its first row, shows nothing but its name.
    why = f"text, and its name ends in {suffix}"
    return Recognized(
        name="csv",
        title="a table of one column, or with line breaks in its cells",
        why=why,
        layout="file",
        is_read=True,
        way_out=CHECK,
    )


def _kind(path: Path) -> str:
    return "parquet" if is_pattern(path) else recognize_source(path).name
