"""A file whose top level is one object, or several objects that each span several lines."""

from __future__ import annotations

import json
import mmap
from typing import Any, NamedTuple

import msgspec

from ...loaders.loose_record import load_json
from ...loaders.spans import MAX_RECORD_BYTES
from ..json_object import raw_fields
from ..source import Source
from .record_forms import CHECK, CONVERSATIONS, Form, form_of

_PEEK_BYTES = 1 << 20
_FIELDS = 20
"""Of an object that are looked into."""
_decode = json.JSONDecoder(parse_int=str).raw_decode


class Document(NamedTuple):
    """What a file is whose top level is no list."""

    form: Form
    is_one_object: bool
    """Whether one object is all."""
    under: str = ""
    """Field of that object whose list holds the records."""


def document_of(source: Source) -> Document | None:
    """What a source is that is no list of records; None of an array and of records line by line."""
    if source.is_array:
        return None
    whole = _whole(source)
    if whole is not None:
        return Document(form, True) if (form := _one_form(source, whole)) else _object(whole)
    if _spans_lines(source.data, source.start):
        form = Form(
            "documents",
            "JSON objects one after the other, each over several lines",
            "its first object ends on another line than it begins, and something follows",
            way_out="write one record a line: jq -c . SOURCE > OUT.jsonl",
        )
        return Document(form, False)
    return None


def _whole(source: Source) -> dict[str, msgspec.Raw] | None:
    try:
        return raw_fields(source.data, source.start)
    except (ValueError, RecursionError):
        return None


def _one_form(source: Source, whole: dict[str, msgspec.Raw]) -> Form | None:
    """The form of a file that is known by its lists, or else is a single record of a known form.

    The lists are looked at first: one more field must not make a record of all that they hold.
    """
    if any(_is_list(whole, name) for name in CONVERSATIONS):
        return _one_record(source, whole)
    return _known_object(whole, _firsts(whole), _why(whole)) or _one_record(source, whole)


def _one_record(source: Source, whole: dict[str, msgspec.Raw]) -> Form | None:
    try:
        if len(source.data) > _PEEK_BYTES:
            # Of a long list its first element tells what it is.
            firsts = _firsts(whole).items()
            record = {name: [v] if _is_list(whole, name) else v for name, v in firsts}
        else:
            record = load_json(source.data[source.start :])
        form = form_of(record)
    except (ValueError, RecursionError):
        return None
    return None if form.name == "unknown" else form


def _object(whole: dict[str, msgspec.Raw]) -> Document:
    first, why = _firsts(whole), _why(whole)
    lists = {name: value for name, value in first.items() if _is_list(whole, name)}
    forms = {name: form_of(value) for name, value in lists.items() if isinstance(value, dict)}
    read = [name for name, form in forms.items() if form.read_as]
    if len(read) > 1:
        return Document(_several(read, why), True)
    if forms:
        name = next(iter(read or forms))
        return _wrapped(name, forms[name], why)
    values = list(first.values())
    if values and all(isinstance(v, dict) for v in values):
        title = f"an object of records by their names, of: {form_of(values[0]).title}"
        return Document(
            Form(
                "keyed",
                title,
                why,
                way_out=(
                    "write a list of them: jq '[to_entries[] | {id: .key} + .value]' SOURCE > "
                    "OUT.json"
                ),
            ),
            True,
        )
    title = "one JSON object that is no record"
    return Document(Form("object", title, why, way_out="give the list of records"), True)


def _firsts(whole: dict[str, msgspec.Raw]) -> dict[str, Any]:
    return {name: _first(raw) for name, raw in list(whole.items())[:_FIELDS]}


def _why(whole: dict[str, msgspec.Raw]) -> str:
    keys = ", ".join(list(whole)[:8])[:200] or "none"
    return f"the top level is an object with the keys {keys}, not a list"


def _is_list(whole: dict[str, msgspec.Raw], name: str) -> bool:
    return name in whole and bytes(memoryview(whole[name])[:1]) == b"["


def _known_object(whole: dict[str, msgspec.Raw], first: dict[str, Any], why: str) -> Form | None:
    if _is_list(whole, "images") and _is_list(whole, "annotations"):
        return _coco(first.get("annotations"), why)
    if _is_list(whole, "questions"):
        return Form("vqav2-questions", "questions of VQAv2", why, way_out=CHECK)
    annotation = first.get("annotations")
    if isinstance(annotation, dict) and "question_id" in annotation:
        return Form("vqav2-annotations", "answers of VQAv2", why, way_out=_JOIN)
    if first and all(isinstance(v, dict) and "annotation" in v for v in first.values()):
        return Form(
            "internvl-meta",
            "a meta file of InternVL, which lists sources",
            why,
            way_out="convert each file that it names under 'annotation', with its 'root' as "
            "--images",
        )
    return None


def _several(names: list[str], why: str) -> Form:
    """Several lists of records, of which one may be a test split: nobody is to train on it."""
    return Form(
        "lists-by-name",
        f"several lists of records: {', '.join(name[:40] for name in names[:8])}",
        why,
        way_out=f"write each list alone: jq '.[\"{names[0][:40]}\"]' SOURCE > OUT.json",
    )


def _wrapped(name: str, inner: Form, why: str) -> Document:
    """A list of records in a field of an object, whose other fields are about the list."""
    title = f"a list under {name[:40]!r} of: {inner.title}"
    if inner.read_as:
        return Document(inner._replace(title=title, why=f"{why}; {inner.why}"), True, name)
    way_out = f"write that list alone: jq '.[\"{name[:40]}\"]' SOURCE > OUT.json"
    return Document(Form("wrapped", title, why, way_out=way_out), True)


_JOIN = "give the file of the questions, and these answers with --annotations"


def _coco(annotation: Any, why: str) -> Form:
    fields = annotation if isinstance(annotation, dict) else {}
    if "caption" in fields:
        return Form(
            "coco-captions",
            "captions of COCO",
            why,
            way_out=CHECK,
        )
    title = "instances of COCO (boxes, masks)" if "bbox" in fields else "annotations in COCO's form"
    return Form("coco", title, why, way_out="it has no conversations")


def _first(raw: msgspec.Raw) -> Any:
    """The value, or the first element of a list; None where it is larger than any record."""
    view, size = memoryview(raw), _PEEK_BYTES
    while True:
        text = bytes(view[:size]).decode("utf-8", "replace")
        start = len(text) - len(text[1:].lstrip()) if text.startswith("[") else 0
        try:
            return _decode(text, start)[0]
        except (ValueError, RecursionError, IndexError):
            if size >= min(len(view), MAX_RECORD_BYTES):
                return None
            size *= 8


def _spans_lines(data: mmap.mmap, start: int) -> bool:
    text = data[start : start + _PEEK_BYTES].decode("utf-8", "replace")
    try:
        _, stop = _decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:stop] and text[stop:].lstrip()[:1] in ("{", ",")
