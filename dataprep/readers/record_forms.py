"""What form a record has, told from its fields: whose it is, and what reads it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...loaders.record_fields import IMAGES
from .interleaved import is_mmc4, is_obelics
from .placeholders import OTHER_MARKS

CONVERSATIONS = ("conversations", "messages", "conversation")
"""Fields that a list of messages goes by."""


CHECK = "neva-prep convert SOURCE --dry-run checks every record of it"
"""What to do with a source that convert reads and that is no list of JSON records."""


class Form(NamedTuple):
    """A form of records."""

    name: str
    title: str
    why: str
    read_as: str = ""
    """Name in form.FORMS of what reads it; empty where nothing does."""
    way_out: str = ""
    """What to do where nothing reads it."""


_WRITE = (
    "write each record as {'id', 'image', 'conversations': [{'from': 'human', 'value': "
    "'<image>\\n...'}, {'from': 'gpt', 'value': ...}]}, or read them with --reader"
)


def form_of(record: Any) -> Form:
    """The form of one record; what stands in it is not trusted to be of any type."""
    if isinstance(record, list):
        return Form(
            "lists",
            "lists instead of records",
            "a record is a list",
            way_out="make one list of all records: jq 'add' SOURCE > OUT.json",
        )
    if not isinstance(record, dict):
        return Form(
            "values", "values that are no records", f"a record is {record!r:.40}", way_out=_WRITE
        )
    for name, pair in _PREFERENCES:
        if pair <= record.keys():
            why = f"records have {name}"
            way_out = "write the better answer as a gpt turn, or leave such records out"
            return Form("preferences", "preference pairs", why, way_out=way_out)
    name = conversation_field(record)
    if name and record[name]:
        return _conversation_form(name, record[name][0], record)
    if is_obelics(record):
        why = "records have 'texts' and 'images', one null where the other stands"
        return Form("obelics", "documents of texts and images (OBELICS)", why, "obelics")
    if is_mmc4(record):
        why = "records have 'text_list' and 'image_info'"
        return Form("mmc4", "documents of texts and images (MMC4)", why, "mmc4")
    return _row_form(record)


def conversation_field(record: dict[str, Any]) -> str:
    """Field that holds a record's list of messages; "" where there is none."""
    name = next((name for name in CONVERSATIONS if isinstance(record.get(name), list)), "")
    texts = record.get("texts")
    if name or not isinstance(texts, list) or not texts:
        return name
    # As the_cauldron has it; texts of another kind are a document's.
    return "texts" if isinstance(texts[0], dict) and is_pair(texts[0]) else ""


def is_pair(turn: dict[str, Any]) -> bool:
    """Whether an object holds a question and its answer, under the names of those who speak."""
    return any(asks in turn for asks in ("human", "user")) and any(
        answers in turn for answers in ("assistant", "gpt")
    )


def _conversation_form(name: str, turn: Any, record: dict[str, Any]) -> Form:
    if not isinstance(turn, dict):
        why = f"'{name}' holds {type(turn).__name__}, not objects"
        return Form("turns", "conversations of another kind", why, way_out=_WRITE)
    if is_pair(turn):
        why = f"'{name}' is a list of {{'human', 'assistant'}} pairs"
        title = "pairs of question and answer (ms-swift's ShareGPT)"
        return Form("pairs", title, why, "pairs")
    turns = [other for other in record[name] if isinstance(other, dict)]
    texts = [turn.get("value", turn.get("content")) for turn in turns]
    if any(isinstance(text, list) for text in texts):
        why = f"'{name}' has texts as lists of parts (text, image)"
        title = "messages of OpenAI / Hugging Face with content parts"
        return Form("content-parts", title, why, "messages")
    if "from" in turn and "value" in turn:
        return _from_value_form(name, turns, record)
    if "role" in turn:
        title = {
            "messages": "messages with role and content (ChatML, LLaMA-Factory's ShareGPT)",
            "conversation": "conversation with role and content (Mantis)",
        }.get(name, "conversations with role and content")
        return Form("messages", title, f"'{name}' has turns with 'role' and 'content'", "messages")
    why = f"turns have the fields {_names(turn)}"
    return Form("turns", "conversations of another kind", why, way_out=_WRITE)


def _from_value_form(name: str, turns: list[dict[str, Any]], record: dict[str, Any]) -> Form:
    values = [turn["value"] for turn in turns if isinstance(turn.get("value"), str)]
    roles = sorted({str(turn.get("from"))[:20] for turn in turns})
    why = f"'{name}' has turns with 'from' ({', '.join(roles[:4])}) and 'value'"
    if any("<img>" in value and "</img>" in value for value in values):
        title = "Qwen-VL's conversations, with <img>path</img> in the text"
        return Form("qwen-vl", title, why, "qwen-vl")
    if any("<ImageHere>" in value for value in values):
        return Form(
            "xcomposer", "InternLM-XComposer's conversations, with <ImageHere>", why, "xcomposer"
        )
    if name != "conversations" or not set(roles) <= {"human", "gpt", "system"}:
        return Form("sharegpt", "ShareGPT conversations", why, "sharegpt")
    if "image" in record and "width" in record and "height" in record:
        return Form("internvl", "LLaVA's form, with InternVL's width and height", why, "llava")
    if record.get("system"):
        return Form("sharegpt", "ShareGPT conversations, with a system field", why, "sharegpt")
    if _embeds(record) or _marks_otherwise(values, record) or _names_otherwise(record):
        title = "LLaVA's turns, with images given or marked in another way"
        return Form("sharegpt", title, why, "sharegpt")
    return Form("llava", "LLaVA's form", why, "llava")


def _embeds(record: dict[str, Any]) -> bool:
    """Whether images are objects, or in the record itself."""
    given = record.get("image") or record.get("images")
    first = given[0] if isinstance(given, list) and given else given
    return isinstance(first, dict) or (isinstance(first, str) and first.startswith("data:image/"))


def _names_otherwise(record: dict[str, Any]) -> bool:
    """Whether images stand under another name than LLaVA's."""
    if record.get("image") or record.get("images"):
        return False
    return any(record.get(name) for name in IMAGES)


def _marks_otherwise(values: list[str], record: dict[str, Any]) -> bool:
    if not (record.get("image") or record.get("images")):
        return False
    return not any("<image>" in value for value in values) and any(
        OTHER_MARKS.search(value) for value in values
    )


_PREFERENCES = (
    ("'chosen' and 'rejected'", {"chosen", "rejected"}),
    ("'conversations_a' and 'conversations_b'", {"conversations_a", "conversations_b"}),
)
# Name, fields, fields that make it something else, title, what reads it.
_ROWS: tuple[tuple[str, set[str], set[str], str, str], ...] = (
    ("alpaca", {"instruction", "output"}, set(), "Alpaca's instruction and output", "alpaca"),
    ("query", {"query", "response"}, {"question"}, "ms-swift's query and response", "query"),
    ("vqa", {"question", "answer"}, set(), "questions and answers (VQA)", "vqa"),
    ("vqa", {"question", "answers"}, set(), "questions and answers (VQA)", "vqa"),
    ("vqa", {"question", "short_answer"}, set(), "questions and answers (VQA)", "vqa"),
    ("vqa", {"question", "response"}, {"query"}, "questions and answers (VQA)", "vqa"),
    ("vqa", {"prompt", "completion"}, set(), "prompts and completions", "vqa"),
    ("captions", {"image", "caption"}, set(), "images and captions", "captions"),
    ("captions", {"image_id", "caption"}, set(), "captions as in COCO", "captions"),
    ("captions", {"url", "caption"}, set(), "addresses and captions", "captions"),
    ("text", {"text"}, set(), "plain text", ""),
)


def _row_form(record: dict[str, Any]) -> Form:
    why = f"records have the fields {_names(record)}"
    for name, needed, others, title, read_as in _ROWS:
        if needed <= record.keys() and not others & record.keys():
            return Form(name, title, why, read_as, "" if read_as else _WRITE)
    return Form("unknown", "JSON records of an unknown form", why, way_out=_WRITE)


def _names(record: dict[str, Any]) -> str:
    names = [str(name)[:40] for name in list(record)[:8]]
    return ", ".join(names) + (" and more" if len(record) > len(names) else "") or "none"
