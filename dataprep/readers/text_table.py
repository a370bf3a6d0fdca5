"""CSV and TSV: each row is a record, its fields named by the header."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from ...errors import RecordError
from ...loaders.loose_record import load_json
from ...loaders.spans import MAX_RECORD_BYTES
from ..source import Source
from .columns import choose_columns
from .quotes import find_fault
from .staging import staged

_MARKS = "\t,;|"


def open_text_table(
    path: Path, work: Path, form: str, columns: Mapping[str, str]
) -> tuple[Source, str]:
    """Open a CSV or TSV file as a source.

    A row that has more cells than the header is kept as a record of its line and its cells, which
    is rejected like any other that is no conversation.

    Args:
        path: of the file.
        work: folder for its rows as JSON lines.
        form: of the rows as records; `auto` to recognize it.
        columns: field -> column, as the user says.

    Returns:
        The source, and where its images lie.

    Raises:
        ConfigError: there is no such column.
        RecordError: it is no table, or not UTF-8.
    """
    mark, header = _header(path)
    chosen = choose_columns(header, columns, frozenset(header))
    names = [chosen.fields.get(name, name) for name in header]
    # Nothing parts the cells of one column: there the name of the file is all that tells.
    is_tsv = mark == "\t" if len(header) > 1 else path.suffix.lower() == ".tsv"
    source = staged(
        work,
        {path.name: path},
        lambda: _records(path, mark, names, is_tsv),
        name=path.name,
        why=f"a table of {len(header)} columns, parted by {mark!r}; {chosen.said}",
        form=form,
        options=sorted(columns.items()),
    )
    return replace(source, container="tsv" if is_tsv else "csv"), str(path.parent)


def _header(path: Path) -> tuple[str, list[str]]:
    """What parts the cells, and the names of the columns."""
    with _opened(path) as file:
        line = file.readline(1 << 20)
    mark = max(_MARKS, key=line.count)
    header = [name.strip() for name in _names(line, mark)]
    double = next((name for name in header if header.count(name) > 1), None)
    if not any(header) or double is not None:
        what = "has no header" if double is None else f"has two columns named {double!r}"
        raise RecordError(f"{path}: line 1: {what}; name each column once, on the first line")
    return mark, header


def _names(line: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=mark, strict=mark == "\t"), [])
    except csv.Error:
        return line.split(mark)


def _records(path: Path, mark: str, names: list[str], is_tsv: bool) -> Iterator[dict[str, Any]]:
    with _opened(path) as file:
        fault = find_fault(file, mark, len(names), is_tsv=is_tsv)
    if fault and not is_tsv:
        raise RecordError(
            f"{path}: line {fault.line}: a cell begins with a quotation mark that {fault.what}; "
            'enclose the whole cell in quotation marks, and write each one inside it twice ("")'
        )
    limit = csv.field_size_limit(MAX_RECORD_BYTES)
    try:
        with _opened(path) as file:
            # Where tabs part cells, marks that enclose none are text: so are all in such a file.
            rows = csv.reader(
                file,
                delimiter=mark,
                quoting=csv.QUOTE_NONE if fault else csv.QUOTE_MINIMAL,
                strict=True,
            )
            next(rows)
            yield from (_record(cells, names, rows.line_num) for cells in rows if cells)
    except csv.Error as error:
        raise RecordError(
            f"{path}: line {rows.line_num}: is no row of a table ({error}); correct the line"
        ) from error
    finally:
        csv.field_size_limit(limit)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The table, open for reading.

    Raises:
        RecordError: it cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}; check the path") from error


def _record(cells: list[str], names: list[str], line: int) -> dict[str, Any]:
    if len(cells) > len(names):
        return {"line": line, "cells": cells}
    record: dict[str, Any] = dict(zip(names, cells, strict=False))
    talk = record.get("conversations", "")
    if talk[:1] == "[":
        # What is no JSON stays a text, and is rejected for that.
        with suppress(ValueError, RecursionError):
            record["conversations"] = load_json(talk.encode())
    return record


def _not_utf8(path: Path, error: UnicodeDecodeError) -> RecordError:
    return RecordError(
        f"{path}: is not UTF-8 ({error.reason} at byte {error.start} of a part); save it as UTF-8"
    )
