"""What form a record has, told from its fields: whose it is, and whether convert reads it."""

from __future__ import annotations

from typing import Any, NamedTuple

from .edits import OTHER_MARKS, ROLES, UNREAD


class Form(NamedTuple):
    """A form of records."""

    name: str
    title: str
    why: str
    is_read: bool = False
    way_out: str = ""


FIX = "--fix OUT.json writes it with the names that convert reads"
"""Way out of forms that are LLaVA's but for the names in them."""
_WRITE = (
    "write each record as {'id', 'image', 'conversations': [{'from': 'human', 'value': "
    "'<image>\\n...'}, {'from': 'gpt', 'value': ...}]}"
)


def form_of(record: Any) -> Form:
    """The form of one record; what stands in it is not trusted to be of any type."""
    if isinstance(record, list):
        return Form(
            "lists",
            "lists instead of records",
            "a record is a list",
            way_out=("make one list of all records: jq 'add' SOURCE > OUT.json"),
        )
    if not isinstance(record, dict):
        return Form(
            "values", "values that are no records", f"a record is {record!r:.40}", way_out=_WRITE
        )
    for name in ("conversations", "messages", "conversation"):
        if isinstance(record.get(name), list) and record[name]:
            return _conversation_form(name, record[name][0], record)
    return _row_form(record)


def _conversation_form(name: str, turn: Any, record: dict[str, Any]) -> Form:
    if not isinstance(turn, dict):
        kind = type(turn).__name__
        return Form(
            "turns",
            "conversations of another kind",
            f"'{name}' holds {kind}, not objects",
            way_out=_WRITE,
        )
    if {"human", "assistant"} <= turn.keys() or {"user", "assistant"} <= turn.keys():
        why = f"'{name}' is a list of {{'human', 'assistant'}} pairs"
        return Form(
            "pairs", "pairs of question and answer (ms-swift's ShareGPT)", why, way_out=_WRITE
        )
    value_name = "value" if "value" in turn else "content"
    if isinstance(turn.get(value_name), list):
        why = f"'{name}' has '{value_name}' as a list of parts (text, image)"
        return Form(
            "content-parts",
            "messages of OpenAI / Hugging Face with content parts",
            why,
            way_out="join the parts to one text, with '<image>' where an image part stands, and "
            "list the image paths under 'image'",
        )
    if "from" in turn and "value" in turn:
        return _from_value_form(name, turn, record)
    if "role" in turn:
        title = {
            "messages": "messages with role and content (ChatML, LLaMA-Factory's ShareGPT)",
            "conversation": "conversation with role and content (Mantis)",
        }.get(name, "conversations with role and content")
        lost = ", ".join(f"'{field}'" for field in UNREAD if record.get(field))
        way_out = f"convert would leave out {lost}: {_WRITE}" if lost else FIX
        why = f"'{name}' has turns with 'role' and 'content'"
        return Form("messages", title, why, way_out=way_out)
    why = f"turns have the fields {_names(turn)}"
    return Form("turns", "conversations of another kind", why, way_out=_WRITE)


def _from_value_form(name: str, turn: dict[str, Any], record: dict[str, Any]) -> Form:
    turns = [other for other in record[name] if isinstance(other, dict)]
    values = [other["value"] for other in turns if isinstance(other.get("value"), str)]
    roles = sorted({str(other.get("from"))[:20] for other in turns})
    why = f"'{name}' has turns with 'from' ({', '.join(roles[:4])}) and 'value'"
    if any("<img>" in value and "</img>" in value for value in values):
        return Form(
            "qwen-vl",
            "Qwen-VL's conversations, with <img>path</img> in the text",
            why,
            way_out=(
                "put '<image>' in place of 'Picture 1: <img>path</img>', and the path under 'image'"
            ),
        )
    if any("<ImageHere>" in value for value in values):
        return Form(
            "xcomposer", "InternLM-XComposer's conversations, with <ImageHere>", why, way_out=FIX
        )
    if name != "conversations" or not set(roles) <= {"human", "gpt", "system"}:
        known = all(role.strip().lower() in ROLES for role in roles)
        return Form(
            "sharegpt",
            "ShareGPT conversations with other roles",
            why,
            way_out=(
                FIX if known else f"rename the roles to human and gpt: {', '.join(roles[:8])}"
            ),
        )
    marked = any(OTHER_MARKS.search(value) for value in values)
    if "image" in record and "width" in record and "height" in record:
        return Form("internvl", "LLaVA's form, with InternVL's width and height", why, is_read=True)
    title = "LLaVA's form, with another mark for images" if marked else "LLaVA's form"
    return Form("llava", title, why, is_read=True)


_ROWS: tuple[tuple[str, set[str], str], ...] = (
    ("preferences", {"chosen", "rejected"}, "preference pairs"),
    ("preferences", {"conversations_a", "conversations_b"}, "preference pairs"),
    ("alpaca", {"instruction", "output"}, "Alpaca's instruction and output"),
    ("swift", {"query", "response"}, "ms-swift's query and response"),
    ("vqa", {"question", "answer"}, "questions and answers (VQA)"),
    ("vqa", {"question", "answers"}, "questions and answers (VQA)"),
    ("vqa", {"question", "short_answer"}, "questions and answers (VQA)"),
    ("vqa", {"prompt", "completion"}, "prompts and completions"),
    ("captions", {"image", "caption"}, "images and captions"),
    ("captions", {"image_id", "caption"}, "captions as in COCO"),
    ("captions", {"url", "caption"}, "addresses and captions"),
    ("text", {"text"}, "plain text"),
)


def _row_form(record: dict[str, Any]) -> Form:
    why = f"records have the fields {_names(record)}"
    for name, needed, title in _ROWS:
        if needed <= record.keys():
            return Form(name, title, why, way_out=_WRITE)
    return Form("unknown", "JSON records of an unknown form", why, way_out=_WRITE)


def _names(record: dict[str, Any]) -> str:
    names = [str(name)[:40] for name in list(record)[:8]]
    return ", ".join(names) + (" and more" if len(record) > len(names) else "") or "none"
