"""The safe, mechanical edits: each takes a fault away without touching what a conversation says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ...errors import NevaPrepError
from ...loaders.format import IMAGE_PLACEHOLDER, sample_key
from ...loaders.image_folder import ImageFolder
from ...loaders.loose_record import load_json
from ...loaders.record_fields import ROLES
from ..readers.placeholders import are_in_order, other_marks
from ..readers.record_forms import CONVERSATIONS
from ..splice import Edit, Field, Value, fields, items
from .fault import image_field, image_paths, is_found
from .find_images import Found, ImageFinder, spelled_plainly

EDITS = {
    "role_renamed": "roles get the names that convert reads: human, gpt, system",
    "field_renamed": "fields get the names that convert reads: conversations, from, value",
    "placeholder_added": "'<image>' is put before the first human turn, once for each image",
    "placeholder_renamed": "another mark for an image becomes '<image>', if it is clear for which",
    "placeholder_removed": "the last '<image>' marks without an image go (--remove-surplus)",
    "image_path_corrected": "the path becomes that of the one file that it can mean",
    "empty_image_removed": "an image path without a character becomes null: text only",
    "id_added": "a record without id gets its index as id, as convert does",
    "comma_removed": "a comma behind a line of JSONL goes",
    "byte_order_mark_removed": "a byte order mark goes",
}
"""Kind of edit -> what it does."""

_FROM, _VALUE = ("role", "speaker"), ("content", "text")
UNREAD = ("system", "video", "videos", "audio", "audios", "tools")
"""Fields that convert would leave out of the conversation, and so change what it says."""
_MARK = re.compile(re.escape(IMAGE_PLACEHOLDER) + r"(?:\\n)?")


def rename_roles(text: str, record: dict[str, Any]) -> Iterator[Edit]:
    """Every role, where all are known by another name and nothing beside them would be lost."""
    if _says_more(record):
        return
    for number, turn in enumerate(_turns(text)):
        role = json.loads(turn["from"].value.of(text))
        name = ROLES.get(str(role).strip().lower())
        if name is not None and name != role:
            where = f"conversations[{number}].from"
            yield Edit("role_renamed", where, *turn["from"].value, _quoted(name))


def _says_more(record: dict[str, Any]) -> bool:
    return any(record.get(name) for name in UNREAD)


def rename_conversations(text: str, record: dict[str, Any]) -> Iterator[Edit]:
    """The list of turns, where it goes by another name and nothing beside it would be lost."""
    names = [name for name in CONVERSATIONS[1:] if _has_roles(record.get(name))]
    if len(names) == 1 and not _says_more(record):
        yield _renamed(names[0], fields(text)[names[0]], "conversations")


def rename_turn_fields(text: str, record: dict[str, Any]) -> Iterator[Edit]:
    """`from` and `value` of every turn, where nothing beside them would be lost."""
    if _says_more(record):
        return
    for number, turn in enumerate(_turns(text)):
        for wanted, others in (("from", _FROM), ("value", _VALUE)):
            names = [name for name in others if name in turn]
            if wanted not in turn and len(names) == 1:
                where = f"conversations[{number}].{names[0]}"
                yield _renamed(where, turn[names[0]], wanted)


def add_placeholders(text: str, record: dict[str, Any]) -> Iterator[Edit]:
    """Marks for the images of a record that has none, or only marks of another kind."""
    paths = image_paths(record)
    at = fields(text)
    if paths and not any(path.strip() for path in paths):
        name = image_field(record)
        yield Edit("empty_image_removed", name, *at[name].value, "null")
        return
    renamed = list(_other_marks(text))
    if renamed:
        is_sure = are_in_order([text[edit.start : edit.stop] for edit in renamed], len(paths))
        yield from renamed if is_sure else ()
        return
    new = f"{IMAGE_PLACEHOLDER}\\n" * len(paths)
    for number, value in islice(_questions(text), 1):
        where = f"conversations[{number}].value"
        yield Edit("placeholder_added", where, value.start + 1, value.start + 1, new)


def remove_placeholders(text: str, record: dict[str, Any]) -> Iterator[Edit]:
    """The last marks, where there are more than images."""
    marks = [
        (number, match)
        for number, value in _questions(text)
        for match in _MARK.finditer(text, *value)
    ]
    for number, match in marks[len(image_paths(record)) :]:
        yield Edit("placeholder_removed", f"conversations[{number}].value", *match.span(), "")


def correct_paths(
    text: str, record: dict[str, Any], folder: ImageFolder, finder: ImageFinder
) -> Iterator[Edit]:
    """Paths that lead to no file, where one file can be meant."""
    at = fields(text)
    name = image_field(record)
    value = at[name].value
    is_list = text[value.start] == "["
    for number, place in enumerate(items(text, value.start) if is_list else [value]):
        path = json.loads(place.of(text))
        if is_found(path, folder):
            continue
        where = f"{name}[{number}]" if is_list else name
        plain = spelled_plainly(path)
        if plain and is_found(plain, folder):
            yield Edit("image_path_corrected", where, *place, _quoted(plain))
        elif isinstance(found := finder.find(path), Found):
            yield Edit("image_path_corrected", where, *place, _quoted(found.path))


def clean_line(text: str) -> Iterator[Edit]:
    """What stands around a record on its line, and is not JSON."""
    if text.startswith("\ufeff"):
        yield Edit("byte_order_mark_removed", "before the record", 0, 1, "")
    if text.endswith(","):
        stop = len(text.rstrip(", \t"))
        yield Edit("comma_removed", "behind the record", stop, len(text), "")


def add_id(raw: bytes, index: int) -> Edit:
    """The id that convert would give a sound record that has none."""
    text = raw.decode()
    at = fields(text).get("id")
    key = _quoted(sample_key(index))
    if at is not None:
        return Edit("id_added", "id", *at.value, key)
    start = text.index("{") + 1
    gap = text[start : len(text) - len(text[start:].lstrip(" \t\r\n"))]
    return Edit("id_added", "id", start, start, f'{gap}"id": {key},{"" if gap else " "}')


def edits_for(
    fault: NevaPrepError,
    raw: bytes,
    folder: ImageFolder,
    finder: ImageFinder,
    *,
    remove_surplus: bool,
) -> list[Edit]:
    """The edits that may take a fault away; none where that takes a mind.

    Raises:
        ValueError, RecursionError, LookupError, TypeError: the record has no usual shape.
    """
    text = raw.decode()
    if fault.reason == "invalid_json":
        return list(clean_line(text))
    record = load_json(raw)
    if fault.reason == "placeholder_mismatch":
        return list(remove_placeholders(text, record)) if remove_surplus else []
    if fault.reason in ("missing_image", "absolute_path", "path_traversal"):
        return list(correct_paths(text, record, folder, finder))
    step = _STEPS.get(fault.reason)
    return list(step(text, record)) if step else []


_STEPS: dict[str, Callable[[str, dict[str, Any]], Iterator[Edit]]] = {
    "missing_conversations": rename_conversations,
    "missing_role": rename_turn_fields,
    "missing_value": rename_turn_fields,
    "unknown_role": rename_roles,
    "placeholder_missing": add_placeholders,
}


def _other_marks(text: str) -> Iterator[Edit]:
    for number, value in _questions(text):
        where = f"conversations[{number}].value"
        for match in other_marks(value.of(text)):
            start, stop = (value.start + place for place in match.span())
            yield Edit("placeholder_renamed", where, start, stop, IMAGE_PLACEHOLDER)


def _questions(text: str) -> Iterator[tuple[int, Value]]:
    """Texts of the human turns."""
    for number, turn in enumerate(_turns(text)):
        if json.loads(turn["from"].value.of(text)) == "human":
            yield number, turn["value"].value


def _turns(text: str) -> list[dict[str, Field]]:
    at = fields(text)["conversations"].value.start
    return [fields(text, turn.start) for turn in items(text, at)]


def _renamed(where: str, field: Field, name: str) -> Edit:
    return Edit("field_renamed", where, *field.name, _quoted(name))


def _has_roles(turns: Any) -> bool:
    return isinstance(turns, list) and all(
        isinstance(turn, dict) and any(name in turn for name in ("from", *_FROM)) for turn in turns
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
