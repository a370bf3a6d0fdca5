"""What to do about a record that no mechanical edit repairs: a short text, the same for many."""

from __future__ import annotations

import re
from typing import Any

from ...errors import NevaPrepError
from ...loaders.image_folder import ImageFolder
from ...loaders.loose_record import load_json
from ...loaders.record_fields import ROLES
from ..readers.form import LLAVA
from ..readers.placeholders import OTHER_MARKS
from ..readers.record_forms import CONVERSATIONS, form_of
from .fault import image_paths, is_found
from .find_images import Found, ImageFinder


def advise(fault: NevaPrepError, raw: bytes, folder: ImageFolder, finder: ImageFinder) -> str:
    """The way out of a fault, more exact than its reason's own; empty where there is no more."""
    if fault.reason == "invalid_json":
        return _broken_json(raw)
    try:
        record = load_json(raw)
    except (ValueError, RecursionError):
        return ""
    if fault.reason in ("missing_image", "absolute_path", "path_traversal"):
        return _lost_image(record, folder, finder)
    if fault.reason in ("not_an_object", "missing_conversations", "bad_value", "other_form"):
        form = form_of(record)
        if form.read_as not in ("", LLAVA):
            return f"this is {form.title}: convert such records with --format {form.read_as}"
        return f"this is {form.title}: {form.way_out}" if form.way_out else ""
    if fault.reason == "unknown_role":
        return _roles(record)
    if fault.reason in ("placeholder_missing", "placeholder_mismatch"):
        return _marks(record)
    return _ADVICE.get(fault.reason, "")


_ADVICE = {
    "empty_value": "an empty answer trains nothing but the end of the turn: drop the record",
    "lone_surrogate": "a cut through an emoji leaves such halves: cut texts by characters",
    "bad_image_field": "give paths, or the images themselves in base64: data:image/jpeg;base64,...",
    "too_many_pixels": "pass --pixel-limit with a larger number to convert",
    "remote_image": "download them, for example with img2dataset, and give the paths",
}


def _broken_json(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    if re.search(r"[:\[,]\s*(NaN|-?Infinity)\b", text):
        return "NaN and Infinity are no JSON: write null, or leave the field out"
    if re.match(r"\{\s*'", text):
        return "this is Python's way to print a dict (single quotes): write it with json.dumps"
    if re.search(r"[:\[,]\s*(None|True|False)\b", text):
        return "None, True and False are Python: write null, true and false"
    if re.search(r",\s*[}\]]", text):
        return "remove the comma before the closing bracket"
    if re.search(r"\}\s*\{", text):
        return "two records on one line: put a line break between them"
    if text.strip() in ("[", "]", "],"):
        return "the line holds only a bracket of an array: remove it, or make the file one array"
    if text.startswith("{") and not text.rstrip().endswith("}"):
        return "the line is cut off: write each record on one line, and whole"
    return ""


def _lost_image(record: Any, folder: ImageFolder, finder: ImageFinder) -> str:
    for path in image_paths(record):
        if not is_found(path, folder):
            found = finder.find(path)
            return "" if isinstance(found, Found) else found.value
    return ""


def _roles(record: dict[str, Any]) -> str:
    roles = {str(turn.get("from", turn.get("role"))) for turn in _turns(record)}
    unknown = sorted(role[:40] for role in roles if role.strip().lower() not in ROLES)
    if unknown:
        return f"no known role, of which --fix would know a name: {', '.join(unknown[:3])}"
    return "a system turn may only come first"


def _turns(record: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[Any] = next(
        (record[n] for n in CONVERSATIONS if isinstance(record.get(n), list)), []
    )
    return [turn for turn in found if isinstance(turn, dict)]


def _marks(record: dict[str, Any]) -> str:
    images = len(image_paths(record))
    texts = [str(turn.get("value", turn.get("content"))) for turn in _turns(record)]
    asked = sum(text.count("<image>") for text in texts)
    other = next((mark[0] for text in texts if (mark := OTHER_MARKS.search(text))), None)
    if other and asked != images:
        return f"other marks ({other}) stand there, not as many as images: write '<image>' instead"
    if asked > images == 0:
        return "no image is given: add 'image', or remove the marks (--fix with --remove-surplus)"
    if asked > images:
        return "more marks than images: add the images, or remove marks (--remove-surplus)"
    return "fewer marks than images: only you know where the others belong"
