"""Open a JSON file in place, and tell the form of its records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...errors import RecordError
from ..source import Source, open_source
from .documents import document_of
from .form import LLAVA
from .recognize import recognize_records

AUTO = "auto"


def open_json(path: Path, form: str = AUTO) -> Source:
    """Open a JSON or JSONL file; its records are read where they lie.

    The form is that of most of the first 100 records. A file without a known form is read as
    LLaVA's, so that each of its records is rejected with what it lacks.

    Args:
        path: the file.
        form: of its records, a name in form.FORMS; `auto` to recognize it.

    Raises:
        RecordError: it is broken as a whole, or one object that holds no list of records.
    """
    source = open_source(path)
    if form != AUTO:
        document = document_of(source)
        return replace(source, form=form, under=document.under if document else "")
    found = recognize_records(source)
    if found.layout == "object" and not found.form and path.suffix != ".jsonl":
        raise RecordError(
            f"{path}: byte {source.start}: {found.why}: it is {found.title}; {found.way_out}"
        )
    # It goes to the manifest and may hold what strangers wrote: half a surrogate pair is no UTF-8.
    why = f"{found.title}: {found.why}".encode("utf-8", "backslashreplace").decode()
    return replace(source, form=found.form or LLAVA, under=found.under, why=why)
