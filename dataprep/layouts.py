"""Layouts: the type of sample that energon makes of a record, and which records fit it.

The members of a sample are the same in all of them, apart from the questions and answers that `vqa`
adds to the JSON. What differs is dataset.yaml, and what it takes for a record to be such a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import yaml

from ..errors import RecordError
from ..loaders.dataset_kind import (
    CRUDE,
    KNOWN_LOADERS,
    LOADER_FILE,
    DatasetKind,
    known_loader_text,
)
from ..loaders.format import DATASET_FILE, IMAGE_PLACEHOLDER, META_DIR
from ..loaders.image_header import EXTENSIONS
from ..loaders.trust import MODULE
from ..loaders.turns import Placeholders, Turn, check_turns, is_document
from .check import check_pieces
from .files import write_file
from .readers.record import Record
from .splice import fields

NEVA = "neva"
VQA_FIELD = "vqa"
_FIRST_IMAGE = ",".join(f"000.{extension}" for extension in dict.fromkeys(EXTENSIONS.values()))
_ONLY_CONVERSATIONS = "--layout neva has any conversation"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Layout:
    """How samples are described to energon."""

    kind: DatasetKind
    """What dataset.yaml says."""
    check: Callable[[list[Turn]], Placeholders] = check_turns
    """Whether the turns of a record are sound: of a conversation, or of a document."""
    fit: Callable[[Record, Placeholders], tuple[str, ...]] | None = None
    """Refuses records that are sound and yet no sample of this type; gives codes of
    reasons.REPAIRS for what the sample leaves out."""
    has_fields: bool = False
    """Whether the JSON member gets fields of its own; see `add_fields`."""


def layout_of(name: str) -> Layout:
    """The layout that `--layout` names."""
    return LAYOUTS[name]


def refuse_conflict(content: bytes) -> None:
    """Refuse a record that has a field of the name that `add_fields` gives.

    Raises:
        RecordError: it has one, or is nested too deeply to tell.
    """
    if f'"{VQA_FIELD}"'.encode() not in content:
        return
    try:
        has_field = VQA_FIELD in fields(content.decode())
    except RecursionError:
        _reject("invalid_json", "is nested too deeply")
    if has_field:
        _reject("field_conflict", f"has a field '{VQA_FIELD}', which --layout vqa writes itself")


def add_fields(content: bytes, record: Record, *, insert: bool) -> bytes:
    """The JSON member with what a VQASample takes from it: one text each, or a list for each.

    Args:
        content: the member, whose object ends with its images.
        record: the same, parsed.
        insert: whether placeholders were put before the first question.
    """
    questions = [turn.value for turn in record.turns[::2]]
    answers = [turn.value for turn in record.turns[1::2]]
    if insert:
        questions[0] = f"{IMAGE_PLACEHOLDER}\n" * len(record.images) + questions[0]
    is_single = len(answers) == 1
    added = {
        "context": questions[0] if is_single else questions,
        "answers": answers[0] if is_single else answers,
    }
    return b'%b, "%b": %b}' % (content[:-1], VQA_FIELD.encode(), _encode(added))


def write_layout(out: Path, name: str) -> None:
    """Write dataset.yaml, and the code that it names where energon cannot do without.

    Raises:
        ShardError: the disk refuses.
    """
    kind = layout_of(name).kind
    described = yaml.safe_dump(_described(kind), sort_keys=False, width=1000)
    write_file(out / DATASET_FILE, described.encode())
    if kind.is_known:
        write_file(out / META_DIR / LOADER_FILE, known_loader_text())


def _described(kind: DatasetKind) -> dict[str, Any]:
    if kind.sample_type is None:
        return {"__module__": MODULE, "__class__": "CrudeWebdataset"}
    described: dict[str, Any] = {
        "sample_type": {"__module__": MODULE, "__class__": kind.sample_type}
    }
    for name in ("field_map", "sample_loader", "part_filter"):
        if (value := getattr(kind, name)) is not None:
            described[name] = value
    return described


def _fit_vqa(record: Record, found: Placeholders) -> tuple[str, ...]:
    """One image, and questions with their answers."""
    _one_image(record, "a VQASample")
    if record.turns[0].role == "system":
        _unfit(
            "begins with a system turn, for which a VQASample has no place",
            f"put it before the first question; {_ONLY_CONVERSATIONS}",
        )
    _no_literal(found)
    return ()


def _fit_captioning(record: Record, found: Placeholders) -> tuple[str, ...]:
    """One image, and one answer, which is the caption."""
    _one_image(record, "a CaptioningSample")
    if len(record.turns) != 2:
        _unfit(
            f"has {len(record.turns)} turns, and a caption is the only answer to one question",
            _ONLY_CONVERSATIONS,
        )
    _no_literal(found)
    is_bare = record.turns[0].value.strip() in (IMAGE_PLACEHOLDER, "")
    return () if is_bare else ("prompt_left_out",)


def _fit_interleaved(record: Record, found: Placeholders) -> tuple[str, ...]:
    """At least one image among the texts, without which NeMo's encoder stops."""
    if not record.images:
        _unfit("has no image to stand among its texts", "leave it out, or use --layout neva")
    _no_literal(found)
    return ()


def _fit_similarity(record: Record, found: Placeholders) -> tuple[str, ...]:
    """Texts, of which each has at most one image, before it."""
    _fit_interleaved(record, found)
    if not is_document(record.turns):
        _unfit("is a conversation, not a list of texts with images", _ONLY_CONVERSATIONS)
    values = [turn.value for turn in record.turns]
    for number, (value, following) in enumerate(zip(values, [*values[1:], ""], strict=True)):
        if value == IMAGE_PLACEHOLDER and following in (IMAGE_PLACEHOLDER, ""):
            what = "another image follows" if following else "no text follows"
            _unfit(
                f"has an image (piece {number}) that matches no text of its own: {what}",
                "--layout interleaved has images anywhere",
            )
    return ()


def _one_image(record: Record, sample: str) -> None:
    if len(record.images) != 1:
        _unfit(f"has {len(record.images)} images, and {sample} has one", _ONLY_CONVERSATIONS)


def _no_literal(found: Placeholders) -> None:
    if found.answered:
        _reject(
            "literal_placeholder",
            f"an answer has a literal '{IMAGE_PLACEHOLDER}', where no image is",
        )


def _unfit(finding: str, way_out: str) -> NoReturn:
    _reject("unfit_layout", f"{finding} ({way_out})")


def _reject(reason: str, message: str) -> NoReturn:
    raise RecordError(message, reason=reason)


def _coded(sample_type: str) -> DatasetKind:
    function = KNOWN_LOADERS[sample_type].__name__
    return DatasetKind(
        sample_type=sample_type,
        sample_loader=f"{LOADER_FILE}:{function}",
        part_filter=f"{LOADER_FILE}:part_filter",
        is_known=True,
    )


LAYOUTS: dict[str, Layout] = {
    NEVA: Layout(CRUDE),
    "vqa": Layout(
        DatasetKind(
            sample_type="VQASample",
            field_map={
                "image": _FIRST_IMAGE,
                "context": f"json[{VQA_FIELD}][context]",
                "answers": f"json[{VQA_FIELD}][answers]",
            },
        ),
        fit=_fit_vqa,
        has_fields=True,
    ),
    "captioning": Layout(
        DatasetKind(
            sample_type="CaptioningSample",
            field_map={"image": _FIRST_IMAGE, "caption": "json[conversations][1][value]"},
        ),
        fit=_fit_captioning,
    ),
    "interleaved": Layout(_coded("InterleavedSample"), check_pieces, _fit_interleaved),
    "similarity": Layout(_coded("SimilarityInterleavedSample"), check_pieces, _fit_similarity),
}
"""What `--layout` takes -> how samples are described."""
