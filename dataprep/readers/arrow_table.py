"""Parquet, and what `datasets` saves: each row is a record, each image stays where it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import RecordError
from ..source import Source
from ..stores.table_file import ParquetTable, TableFile, arrow_errors, damaged, open_table
from ..stores.table_files import folder_of, table_files
from ..stores.table_images import PREFIX, reference
from .arrow_values import values_of
from .columns import NAMES, Columns, choose_columns, put_images
from .open_json import AUTO
from .plain_rows import PlainRows, plain_rows, with_conversation
from .staging import staged

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE, _OTHER_MEDIA = "image", ("audio", "video")


class Layout(NamedTuple):
    """What the columns of a table hold."""

    leaves: dict[str, str]
    """Column -> what is read of it: of images their paths alone."""
    images: tuple[str, ...]
    """Columns that hold images, not paths."""
    media: tuple[str, ...]
    """Columns that hold sound or film."""
    left_out: tuple[str, ...]
    """Columns that hold bytes of another kind, which no record can have."""
    columns: Columns
    plain: PlainRows | None = None
    """How rows become conversations, where their columns say so."""


def open_arrow_table(
    path: Path, work: Path, form: str, columns: Mapping[str, str]
) -> tuple[Source, str]:
    """Open a table as a source.

    Args:
        path: of a file, a folder of files, or a pattern.
        work: folder for its texts.
        form: of its rows as records; `auto` to recognize it.
        columns: field -> column, as the user says.

    Returns:
        The source, and where its images lie.

    Raises:
        ConfigError: there is no such column, or pyarrow is missing.
        RecordError: a file is damaged, or has other columns than the first.
    """
    files = table_files(path)
    first = next(iter(files.values()))
    table = open_table(first)
    layout = layout_of(table.schema, columns)
    is_parquet = isinstance(table, ParquetTable)
    what = "a Parquet table" if is_parquet else "an Arrow table"
    said = [f"{what} of {len(files)} file{'s' * (len(files) > 1)}", layout.columns.said]
    if layout.left_out:
        said.append(f"left out, as bytes without a name: {', '.join(layout.left_out)[:200]}")
    layout = layout._replace(plain=_plain(layout, form))
    source = staged(
        work,
        files,
        lambda: _rows(files, layout),
        name=path.name,
        why="; ".join(said),
        form=layout.plain.form if layout.plain else form,
        options=(sorted(columns.items()), form),
        has_plain_heads=bool(layout.images),
    )
    source = replace(source, container="parquet" if is_parquet else "arrow")
    real = os.path.realpath(path)
    return source, f"{PREFIX}{real}" if layout.images else str(folder_of(path))


def _plain(layout: Layout, form: str) -> PlainRows | None:
    """How rows become conversations, unless their form is given or they hold more than that."""
    if form != AUTO or not layout.images or layout.media:
        return None
    fields = layout.columns.fields
    names = [name for name in layout.leaves if name not in layout.images]
    return plain_rows([*(fields.get(name, name) for name in names), _IMAGE])


def layout_of(schema: pa.Schema, given: Mapping[str, str]) -> Layout:
    """Tell what the columns of a table hold, by what `datasets` noted or else by their types.

    Raises:
        ConfigError: a column that is given does not exist.
    """
    features = _features(schema)
    leaves, images, media, left_out, lists = {}, [], [], [], set()
    image_names = {*NAMES[_IMAGE], given.get(_IMAGE), "image_bytes", "bytes", "jpeg", "webp"}
    for field in schema:
        name, kind = field.name, field.type
        noted = features.get(name, "")
        inner = kind.value_type if hasattr(kind, "value_field") else kind
        inside = _fields(inner)
        if noted in _OTHER_MEDIA:
            media.append(name)
        elif noted in ("", _IMAGE) and (
            "bytes" in inside or (_is_binary(inner) and (noted or name.lower() in image_names))
        ):
            images.append(name)
        elif _has_binary(kind):
            left_out.append(name)
            continue
        elif inner is not kind:
            lists.add(name)
        is_held = name in images or name in media
        leaves[name] = f"{name}.path" if is_held and "path" in inside else name
    names = [name for name in leaves if name not in images and name not in media]
    own = {field: name for field, name in given.items() if name not in images}
    chosen = choose_columns(names, own, frozenset(lists), bool(images))
    if images:
        fields = {n: f for n, f in chosen.fields.items() if f != _IMAGE}
        said = f"images are in {', '.join(images)}; {chosen.said}"
        chosen = Columns(fields, said)
    return Layout(leaves, tuple(images), tuple(media), tuple(left_out), chosen)


def _features(schema: pa.Schema) -> dict[str, str]:
    """Column -> `image`, `audio` or `video`, where `datasets` noted that."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind for name in noted if (kind := _feature(noted[name]))}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def _feature(noted: Any) -> str:
    while True:
        if isinstance(noted, list) and noted:
            noted = noted[0]
        elif isinstance(noted, dict) and isinstance(noted.get("feature"), dict | list):
            noted = noted["feature"]
        else:
            break
    kind = str(noted.get("_type", "")).lower() if isinstance(noted, dict) else ""
    return kind if kind in (_IMAGE, *_OTHER_MEDIA) else ""


def _fields(kind: pa.DataType) -> list[str]:
    return (
        [kind.field(n).name for n in range(kind.num_fields)]
        if hasattr(kind, "get_field_index")
        else []
    )


def _is_binary(kind: pa.DataType) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def _has_binary(kind: pa.DataType) -> bool:
    if _is_binary(kind) or str(kind).startswith("fixed_size_binary"):
        return True
    return any(_has_binary(kind.field(n).type) for n in range(kind.num_fields))


def _rows(files: Mapping[str, Path], layout: Layout) -> Iterator[dict[str, Any]]:
    """Every row as a record, without its images."""
    for name, path in files.items():
        table = open_table(path)
        missing = [column for column in layout.leaves if column not in table.schema.names]
        if missing:
            raise RecordError(
                f"{path}: has no column {', '.join(missing)[:200]}, which the first file has; "
                "convert files of other columns by themselves"
            )
        at = 0
        try:
            for first, batch in table.batches(list(layout.leaves.values()), 0):
                yield from _records(name, first, batch, layout)
                at = first + batch.num_rows
        except arrow_errors() as error:
            raise damaged(path, error, f"row {at}") from error
        _refuse_short(path, table, at)


def _refuse_short(path: Path, table: TableFile, rows: int) -> None:
    if rows != table.rows:
        raise RecordError(
            f"{path}: has {rows:,} rows, and its footer says {table.rows:,}; copy or download the "
            "file again"
        )


def _records(
    name: str, first: int, batch: pa.RecordBatch, layout: Layout
) -> Iterator[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for column, array in zip(layout.leaves, batch.columns, strict=True):
        held = column in layout.images or column in layout.media
        where = f"{name}: rows {first:,} and on: column {column!r}"
        columns[column] = _paths(array) if held else values_of(array, where)
    fields, others = layout.columns.fields, [n for n in columns if n not in layout.images]
    for row in range(batch.num_rows):
        record: dict[str, Any] = {}
        for column in others:
            value = columns[column][row]
            if column in layout.media and value is not None:
                value = [path or column for path in value] if isinstance(value, list) else value
            record[fields.get(column, column)] = value
        images = [
            reference(name, first + row, column, item, path or "")
            for column in layout.images
            for item, path in _items(columns[column][row])
        ]
        if layout.images:
            put_images(record, images)
        yield with_conversation(record, layout.plain, images) if layout.plain else record


def _items(value: Any) -> Iterator[tuple[int, str | None]]:
    if isinstance(value, list):
        for item, path in enumerate(value):
            if path is not None:
                yield item, path
    elif value is not None:
        yield 0, value


def _paths(array: Any) -> list[Any]:
    """Of each image the path that the table has, "" where it has none, None where no image is."""
    kind = array.type
    if hasattr(kind, "value_field"):
        flat = _paths(array.flatten())
        lengths = array.value_lengths().to_pylist()
        found, at = [], 0
        for length in lengths:
            found.append(None if length is None else flat[at : at + length])
            at += length or 0
        return found
    valid = array.is_valid().to_pylist()
    if "path" in _fields(kind):
        paths = array.field("path").to_pylist()
        return [(path or "") if ok else None for path, ok in zip(paths, valid, strict=True)]
    return ["" if ok else None for ok in valid]
