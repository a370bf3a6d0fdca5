"""Forms of records: each says the same in LLaVA's form, and junk of any form is accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from convert_help import Row
from form_help import Talk, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neva_prep.dataprep.readers.form import FORMS, reader_of
from neva_prep.dataprep.readers.llava import read_llava
from neva_prep.dataprep.readers.record_forms import form_of
from neva_prep.dataprep.reasons import REJECTIONS, REPAIRS
from neva_prep.errors import RecordError

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# --- any conversation, written in any form -------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda t: f"t{t}")
plain_texts = texts.filter(lambda t: "<im" not in t and "[IMG]" not in t and "<Im" not in t)
talks = st.lists(st.tuples(plain_texts, plain_texts), min_size=1, max_size=3)
paths = st.from_regex(r"[a-z]{1,5}/[a-z0-9]{1,8}\.jpg", fullmatch=True)


def roled(talk: Talk, ask: str, answer: str, *names: str) -> list[Row]:
    roles = {"human": ask, "gpt": answer, "system": "system"}
    return [dict(zip(names, (roles[role], text), strict=True)) for role, text in talk]


def as_parts(talk: Talk, images: list[str]) -> list[Row]:
    shown, messages = iter(images), []
    for role, text in talk:
        parts: list[Row] = []
        for place, piece in enumerate(text.split("<image>") if role == "human" else [text]):
            if place:
                url = {"type": "image_url", "image_url": {"url": next(shown)}}
                parts.append(url)
            parts.append({"type": "text", "text": piece})
        messages.append({"role": {"human": "user", "gpt": "assistant"}[role], "content": parts})
    return messages


def bare(parts: list[Row]) -> list[Row]:
    """The same parts, their images without a word which."""
    return [{"type": "image"} if "image_url" in part else part for part in parts]


def qwen(talk: Talk, images: list[str]) -> Talk:
    return in_text(talk, images, lambda path, _: f"<img>{path}</img>")


def in_text(talk: Talk, images: list[str], mark: Callable[[str, int], str]) -> Talk:
    """The same talk with another mark in its questions: made of the image's path and number."""
    written, number = [], 0
    for role, text in talk:
        while role == "human" and "<image>" in text:
            text = text.replace("<image>", mark(images[number], number + 1), 1)
            number += 1
        written.append((role, text))
    return written


Write = Callable[[Talk, list[str]], Row]
WRITERS: dict[str, Write] = {
    "LLaVA": lambda t, i: {"image": i, "conversations": roled(t, "human", "gpt", "from", "value")},
    "ShareGPT": lambda t, i: {
        "images": i, "conversations": roled(t, "User", "ASSISTANT", "from", "value")
    },
    "bot and model": lambda t, i: {
        "image_paths": i, "conversation": roled(t, "user", "bot", "from", "value")
    },
    "messages": lambda t, i: {
        "images": i, "messages": roled(t, "user", "model", "role", "content")
    },
    "parts with their own image": lambda t, i: {"messages": as_parts(t, i)},
    "parts with images beside": lambda t, i: {
        "images": [{"path": path, "bytes": None} for path in i],
        "messages": [{**turn, "content": bare(turn["content"])} for turn in as_parts(t, i)],
    },
    "Qwen-VL": lambda t, i: {
        "conversations": roled(qwen(t, i), "user", "assistant", "from", "value")
    },
    "img src": lambda t, i: {
        "messages": roled(
            in_text(t, i, lambda path, _: f'<img src="{path}"/>'), "user", "gpt", "role", "content"
        )
    },
    "XComposer": lambda t, i: {
        "image": i,
        "conversations": roled(
            in_text(t, i, lambda *_: "<ImageHere>"), "human", "bot", "from", "value"
        ),
    },
    "numbers": lambda t, i: {
        "image": i,
        "conversations": roled(
            in_text(t, i, lambda _, n: f"<image{n}>"), "user", "gpt", "from", "value"
        ),
    },
    "pairs": lambda t, i: {
        "images": i,
        "conversation": [
            {"human": t[at][1], "assistant": t[at + 1][1]} for at in range(0, len(t), 2)
        ],
    },
    "query": lambda t, i: {
        "images": i, "query": t[-2][1], "response": t[-1][1],
        "history": [[t[at][1], t[at + 1][1]] for at in range(0, len(t) - 2, 2)],
    },
    "Alpaca": lambda t, i: {
        "images": i, "instruction": t[-2][1], "output": t[-1][1], "input": "",
        "history": [[t[at][1], t[at + 1][1]] for at in range(0, len(t) - 2, 2)],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@quick
@given(talk=talks, images=st.lists(paths, max_size=3, unique=True), where=st.integers(0, 2))
def test_any_conversation_says_the_same_in_every_form(
    name: str, talk: list[tuple[str, str]], images: list[str], where: int
) -> None:
    said: Talk = [turn for q, a in talk for turn in (("human", q), ("gpt", a))]
    place = 2 * min(where, len(talk) - 1)
    said[place] = ("human", "<image>" * len(images) + said[place][1])
    # In a text with markup `<img src>` is a part of what is talked about.
    if name == "img src" and any(mark in said[place][1] for mark in ("</", "`")):
        return
    row = {"id": "a", "n": 1.5, **WRITERS[name](said, images)}
    found, shown, _ = read(row)
    assert (found, shown) == (said, images)


@quick
@given(number=st.sampled_from(["1.10", "1e400", "-0.0", "123456789012345678901234567890", "1E+2"]))
def test_ids_unknown_fields_and_odd_numbers_keep_their_very_text(number: str) -> None:
    raw = (
        f'{{"id": {number}, "x": [{number}, "\\ud800"], "messages": [{{"role": "user", '
        f'"weight": {number}, "content": "Why?"}}, {{"role": "assistant", "content": "So."}}]}}'
    )
    content = reader_of("messages")(raw.encode()).content.decode()
    assert content == (
        f'{{"id": {number}, "x": [{number}, "\\ud800"], "conversations": [{{"from": "human", '
        f'"value": "Why?", "weight": {number}}}, {{"from": "gpt", "value": "So."}}]}}'
    )


def test_a_record_that_is_in_llavas_form_already_keeps_every_byte() -> None:
    raw = b'{"id":1.10 ,"image" : "a.jpg","conversations":[{"from":"human","value":"\\u003cimage>"'
    raw += b'},{"value":"So.","from":"gpt","w":2.50}],"z":1}'
    assert reader_of("sharegpt")(raw).content == raw


# --- junk ---------------------------------------------------------------------------------------

NAMES = [
    "conversations",
    "messages",
    "conversation",
    "image",
    "images",
    "img_id",
    "system",
    "tools",
]
NAMES += ["instruction", "input", "output", "query", "response", "history", "question", "answer"]
NAMES += ["answers", "caption", "from", "value", "role", "content", "type", "text", "url", "bytes"]
NAMES += ["index", "human", "assistant", "video", "id", "texts", "text_list", "image_info"]
VALUES = ["human", "gpt", "user", "image", "text", "image_url", "<image>", "<img>a.jpg</img>", ""]
VALUES += ["data:image/png;base64,AAAA", "data:image/png;base64,?", "\ud800", "<image2>"]
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.sampled_from(VALUES)
)
junk = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=20,
)
rows_of_junk = st.dictionaries(st.sampled_from(NAMES), junk, max_size=6)


@pytest.mark.parametrize("form", FORMS)
@settings(quick, max_examples=80)
@given(row=st.one_of(rows_of_junk, junk))
def test_junk_of_any_form_is_read_or_rejected_with_a_known_reason(form: str, row: Any) -> None:
    raw = json.dumps(row).encode()
    try:
        found = reader_of(form)(raw)
    except RecordError as error:
        assert error.reason in REJECTIONS and str(error)
    else:
        assert read_llava(found.content).turns == found.record.turns
        assert set(found.repairs) <= set(REPAIRS)
    assert form_of(row).name


@pytest.mark.parametrize("name", WRITERS)
@settings(quick, max_examples=20)
@given(value=junk, data=st.data())
def test_a_sound_record_with_one_odd_value_is_accounted_for(
    name: str, value: Any, data: st.DataObject
) -> None:
    row = WRITERS[name]([("human", "<image>Why?"), ("gpt", "So.")], ["a.jpg"])
    spots: list[tuple[Any, Any]] = []

    def walk(inside: Any) -> None:
        keys = inside if isinstance(inside, dict) else range(len(inside))
        for key in keys:
            spots.append((inside, key))
            if isinstance(inside[key], dict | list):
                walk(inside[key])

    walk(row)
    inside, key = data.draw(st.sampled_from(spots))
    inside[key] = value
    form = form_of(row).read_as or "llava"
    try:
        read(row, form)
    except RecordError as error:
        assert error.reason in REJECTIONS
