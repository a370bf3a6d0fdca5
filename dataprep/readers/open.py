"""Open whatever the user names as SOURCE."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..source import Source
from .open_json import AUTO, open_json


class Opened(NamedTuple):
    """A source, ready to be read record by record."""

    source: Source
    images: str
    """Where its images lie unless the user says otherwise, as `open_images` takes it."""


def open_any(path: Path, work: Path, form: str = AUTO, reader: str | None = None) -> Opened:
    """Open a source of any format.

    JSON is read where it lies, record by record. What is no list of JSON records (a table, a folder
    of tars) is first written to `work` as JSON lines in LLaVA's form, texts only, one a record.

    Args:
        path: what the user gave.
        work: folder for what must be made of it.
        form: of JSON records; `auto` to recognize it.
        reader: `module:function` of a user's own, which yields the records.

    Raises:
        ConfigError: there is no such function.
        RecordError: it is broken as a whole, or of no known format.
    """
    if reader is not None:
        from .own import stage

        return Opened(stage(path, work, reader), str(path if path.is_dir() else path.parent))
    return Opened(open_json(path, form), str(path.parent))
