"""VQAv2: the questions of one file, each with its answers from another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from ...errors import RecordError
from ..source import Source, open_source
from .join import Lookup, records_of
from .staging import staged

_DIGITS = 12
_LONGEST_SUBTYPE = 60


class _Head(msgspec.Struct):
    data_subtype: str = ""


def open_vqa(path: Path, work: Path, annotations: Path | None) -> tuple[Source, str]:
    """Open the questions of VQAv2 as a source.

    The answer is that which most annotators gave (`multiple_choice_answer`).

    Args:
        path: such as `v2_OpenEnded_mscoco_train2014_questions.json`.
        work: folder for its records as JSON lines.
        annotations: the answers; None for the file of that name beside the questions.

    Returns:
        The source, and where its images lie: `train2014` beside the questions, or their folder.

    Raises:
        RecordError: there are no answers, or a file is broken.
    """
    answers = annotations if annotations is not None else _beside(path)
    subtype = _subtype(path)
    folder = path.parent / subtype
    images = folder if subtype and folder.is_dir() else path.parent
    source = staged(
        work,
        {path.name: path, answers.name: answers},
        lambda: _records(path, answers, subtype),
        name=path.name,
        why=f"questions of VQAv2, with the most frequent of the answers in {answers.name}",
        form="vqa",
    )
    return source, str(images)


def _beside(path: Path) -> Path:
    name = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
    found = path.with_name(name)
    if name == path.name or not found.exists():
        raise RecordError(
            f"{path}: has questions without answers, and {name} is not beside it; give the answers "
            "with --annotations FILE"
        )
    return found


def _subtype(path: Path) -> str:
    try:
        with closing(open_source(path).data) as data, memoryview(data) as view:
            subtype = msgspec.json.decode(view, type=_Head).data_subtype
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read: {error}; check the file") from error
    return subtype if subtype.isalnum() and len(subtype) <= _LONGEST_SUBTYPE else ""


def _records(path: Path, answers: Path, subtype: str) -> Iterator[dict[str, Any]]:
    asked = open_source(path, "vqa", under="questions")
    given = open_source(answers, "vqa", under="annotations")
    with closing(asked.data), closing(given.data):
        lookup = Lookup(given, "question_id")
        for question in records_of(asked):
            # Without answers a record is rejected for that.
            answer = lookup.find(question.get("question_id")) or {}
            yield {
                "id": question.get("question_id"),
                **answer,
                **question,
                **_image(question, subtype),
            }


def _image(question: dict[str, Any], subtype: str) -> dict[str, Any]:
    number = question.get("image_id")
    if "image" in question or isinstance(number, bool) or not isinstance(number, int):
        return {}
    return {"image": f"COCO_{subtype}_{number:0{_DIGITS}d}.jpg" if subtype else str(number)}
