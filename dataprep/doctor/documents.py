"""A file whose top level is one object, or several objects that each span several lines."""

from __future__ import annotations

import json
import mmap
from typing import Any

import msgspec

from ..readers.record import load_json
from ..source import Source
from .record_forms import Form, form_of

_PEEK_BYTES = 1 << 20
_decode = json.JSONDecoder(parse_int=str).raw_decode


def document_form(source: Source) -> tuple[Form | None, bool]:
    """The form of a source that is no list of records.

    Returns:
        The form, None of an array and of records line by line; and whether one object is all.
    """
    if source.is_array:
        return None, False
    whole = _whole(source)
    if whole is not None:
        return _one_record(source) or _object_form(whole), True
    if _spans_lines(source.data, source.start):
        return Form(
            "documents",
            "JSON objects one after the other, each over several lines",
            "its first object ends on another line than it begins, and something follows",
            way_out="write one record a line: jq -c . SOURCE > OUT.jsonl",
        ), False
    return None, False


def _whole(source: Source) -> dict[str, msgspec.Raw] | None:
    try:
        text = memoryview(source.data)[source.start :]
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return None


def _one_record(source: Source) -> Form | None:
    """The form of a file that is a single record of a known form."""
    if len(source.data) > _PEEK_BYTES:
        return None
    try:
        form = form_of(load_json(source.data[source.start :]))
    except (ValueError, RecursionError):
        return None
    return None if form.name == "unknown" else form


def _object_form(whole: dict[str, msgspec.Raw]) -> Form:
    first = {name: _first(raw) for name, raw in list(whole.items())[:20]}
    why = f"its top level is an object with the keys {', '.join(list(whole)[:8])[:200]}"
    if "images" in whole and "annotations" in whole:
        return _coco(first.get("annotations"), why)
    if "questions" in whole:
        return Form("vqav2-questions", "questions of VQAv2", why, way_out=_JOIN)
    annotation = first.get("annotations")
    if isinstance(annotation, dict) and "question_id" in annotation:
        return Form("vqav2-annotations", "answers of VQAv2", why, way_out=_JOIN)
    values = list(first.values())
    if values and all(isinstance(v, dict) and "annotation" in v for v in values):
        return Form(
            "internvl-meta",
            "a meta file of InternVL, which lists sources",
            why,
            way_out=(
                "convert each file that it names under 'annotation', with its 'root' as --images"
            ),
        )
    for name, raw in list(whole.items())[:20]:
        if bytes(memoryview(raw)[:1]) == b"[" and isinstance(first[name], dict):
            inner = form_of(first[name])
            title = f"a list under {name[:40]!r} of: {inner.title}"
            return Form(
                "wrapped",
                title,
                why,
                way_out=f"write that list alone: jq '.[\"{name[:40]}\"]' SOURCE > OUT.json",
            )
    if values and all(isinstance(v, dict) for v in values):
        inner = form_of(values[0])
        title = f"an object of records by their names, of: {inner.title}"
        return Form(
            "keyed", title, why, way_out="write a list of them: jq '[.[]]' SOURCE > OUT.json"
        )
    return Form(
        "object", "one JSON object that is no record", why, way_out="give the list of records"
    )


_JOIN = "join questions and answers by question_id, and write LLaVA's form"


def _coco(annotation: Any, why: str) -> Form:
    fields = annotation if isinstance(annotation, dict) else {}
    if "caption" in fields:
        return Form(
            "coco-captions",
            "captions of COCO",
            why,
            way_out=(
                "write a record for each caption: the image's file_name under 'image', "
                "'<image>\\nDescribe the image.' as the question, the caption as the answer"
            ),
        )
    title = "instances of COCO (boxes, masks)" if "bbox" in fields else "annotations in COCO's form"
    return Form("coco", title, why, way_out="it has no conversations")


def _first(raw: msgspec.Raw) -> Any:
    """The value, or the first element of a list; None where it does not begin within a mebibyte."""
    text = bytes(memoryview(raw)[:_PEEK_BYTES]).decode("utf-8", "replace")
    start = len(text) - len(text[1:].lstrip()) if text.startswith("[") else 0
    try:
        return _decode(text, start)[0]
    except (ValueError, RecursionError, IndexError):
        return None


def _spans_lines(data: mmap.mmap, start: int) -> bool:
    text = data[start : start + _PEEK_BYTES].decode("utf-8", "replace")
    try:
        _, stop = _decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:stop] and text[stop:].lstrip()[:1] in ("{", ",")
