"""Which column of a table is what: by its name, or as the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import ConfigError
from ...loaders.record_fields import IMAGES
from .record_forms import form_of

NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "images", "image_path", "image_file", "file_name", "filename", "filepath",
        "file_path", "img", "img_path", "image_name", "picture", "jpg", "png",
    ),
    "question": ("question", "query", "prompt", "instruction", "input", "problem"),
    "answer": (
        "answer", "answers", "response", "output", "completion", "label", "short_answer",
        "solution",
    ),
    "caption": (
        "caption", "captions", "text", "txt", "title", "description", "alt_text", "comment",
    ),
    "id": ("id", "question_id", "sample_id", "uid", "uuid", "key", "index"),
    "conversations": ("conversations", "messages", "conversation", "texts"),
}  # fmt: skip
"""Field of a record -> names of columns that stand for it, the likeliest first."""


class Columns(NamedTuple):
    """How columns are called in the records."""

    fields: dict[str, str]
    """Column -> field; of the others the name stays."""
    said: str
    """The same in words."""


def choose_columns(
    names: Sequence[str],
    given: Mapping[str, str],
    lists: frozenset[str] = frozenset(),
    has_images: bool = False,
) -> Columns:
    """Tell which column is what.

    What convert reads as it is (such as instruction and output) keeps its names.

    Args:
        names: of the columns.
        given: field -> column, as the user says.
        lists: columns that hold lists.
        has_images: whether images are in further columns.

    Raises:
        ConfigError: a column or a field that is given does not exist.

    Example:
        >>> choose_columns(["file_path", "Title"], {}).fields
        {'file_path': 'image', 'Title': 'caption'}
    """
    for field, name in given.items():
        if field not in NAMES or name not in names:
            what, known = ("column", names) if field in NAMES else ("field", list(NAMES))
            raise ConfigError(
                f"--columns {field}={name}: there is no {what} "
                f"{(name if field in NAMES else field)!r}; there are {', '.join(known)[:300]}"
            )
    fields = {name: field for field, name in given.items()}
    lower = {name.strip().lower(): name for name in reversed(names)}
    for field in ("conversations", "image", "id", *_asked(lower, given, has_images)):
        if field in fields.values() or (field == "id" and "id" in names):
            continue
        found = (lower[name] for name in NAMES[field] if name in lower)
        free = (name for name in found if name not in fields)
        column = next((n for n in free if field != "conversations" or n in lists), None)
        if column is not None:
            fields[column] = field
    # A column that has the name of a field that another one is makes way for it.
    fields |= {n: f"source_{n}" for n in names if n not in fields and n in fields.values()}
    renamed = ", ".join(f"{n!r} is the {field}" for n, field in fields.items() if n != field)
    return Columns(fields, renamed or "columns keep their names")


def _asked(lower: Mapping[str, str], given: Mapping[str, str], has_images: bool) -> tuple[str, ...]:
    """Fields of the texts that are to be looked for."""
    if any(name in lower for name in NAMES["conversations"][:3]) or "conversations" in given:
        return ()
    known = [*lower, "image"] if has_images else lower
    if not given and form_of(dict.fromkeys(known, "")).read_as:
        return ()
    has = {field: any(name in lower for name in NAMES[field]) for field in NAMES}
    if (has["question"] or "question" in given) and (has["answer"] or "answer" in given):
        return ("question", "answer")
    return ("caption",) if has_images or has["image"] or "image" in given else ()


def put_images(record: dict[str, Any], images: Sequence[str]) -> None:
    """Give a record its images; what else it says of them is kept under another name."""
    for name in [name for name in IMAGES if name in record]:
        record[f"source_{name}"] = record.pop(name)
    if len(images) == 1:
        record["image"] = images[0]
    elif images:
        record["images"] = list(images)
