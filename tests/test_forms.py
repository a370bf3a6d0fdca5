"""Forms of records: each says the same in LLaVA's form, and junk of any form is accounted for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from convert_help import Row, convert_in, make_source, reasons_of, record, turns, write_quarantine
from handmade import picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.diff import diff
from neva_prep.dataprep.doctor.doctor import doctor
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.readers.form import FORMS, reader_of
from neva_prep.dataprep.readers.llava import read_llava
from neva_prep.dataprep.readers.record_forms import form_of
from neva_prep.dataprep.reasons import REJECTIONS, REPAIRS
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.stats.run import stats
from neva_prep.dataprep.viewer.rows import read_rows
from neva_prep.errors import ConfigError, RecordError

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Talk = list[tuple[str, str]]
ASK, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


def read(row: Any, form: str = "") -> tuple[Talk, list[str], tuple[str, ...]]:
    """Turns, images and repairs of a record, in the form that it is taken for."""
    raw = json.dumps(row).encode()
    content, found, repairs = reader_of(form or form_of(row).read_as)(raw)
    assert read_llava(content).turns == found.turns
    talk = [(turn["from"], turn["value"]) for turn in json.loads(content)["conversations"]]
    return talk, list(found.images), repairs


def fault(row: Any, form: str = "") -> str:
    """Why a record is rejected."""
    with pytest.raises(RecordError) as caught:
        read(row, form)
    return caught.value.reason


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
        content, found, repairs = reader_of(form)(raw)
    except RecordError as error:
        assert error.reason in REJECTIONS and str(error)
    else:
        assert read_llava(content).turns == found.turns and set(repairs) <= set(REPAIRS)
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


def test_a_source_of_junk_converts_with_every_record_accounted_for(tmp_path: Path) -> None:
    rows = [{"messages": [ASK, ANSWER], "id": "good"}, {"messages": [ASK, ANSWER], "id": "fine"}]
    odd: list[Any] = [1, None, [], {}, {"messages": 3}, {"messages": [1]}, {"messages": [{}, {}]}]
    odd += [{"messages": [{"role": 1, "content": []}]}, {"instruction": "a", "output": "b"}]
    converted = convert_in(tmp_path, [*rows * 6, *odd], shard_count=4)
    assert converted.report.format == "messages-json" and converted.report.samples == 12
    assert converted.report.rejections.pop("other_form") == 1
    assert sum(converted.report.rejections.values()) == len(odd) - 1
    assert [row["record"] for row in converted.rows] == odd


# --- images ---------------------------------------------------------------------------------------


def test_images_inside_the_record_are_stored_and_only_their_name_stays(tmp_path: Path) -> None:
    one, two = picture(), picture(size=(9, 7))
    kind = f"data:image/{'png' if one.startswith(bytes([0x89])) else 'jpeg'};base64,"
    inside = base64.b64encode(one).decode()
    rows = [
        {"id": "uri", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": kind + inside}},
            {"type": "text", "text": "a"},
        ]}, ANSWER]},
        {"id": "bytes", "messages": [{"role": "user", "content": "<image><image>"}, ANSWER],
         "images": [{"bytes": base64.b64encode(two).decode(), "path": None}, kind + inside]},
        {"id": "bad", "messages": [{"role": "user", "content": "<image>"}, ANSWER],
         "images": [{"bytes": "!", "path": None}]},
        {"id": "none", "messages": [{"role": "user", "content": "<image>"}, ANSWER],
         "images": ["data:image/png;base64,QUJD"]},
    ]  # fmt: skip
    converted = convert_in(tmp_path, rows)
    first, second = converted.samples.values()
    name = json.loads(first["json"])["images"][0]["name"]
    assert first[name] == one and inside[:40] not in first["json"].decode()
    stored = json.loads(second["json"])
    assert [second[entry["name"]] for entry in stored["images"]] == [two, one]
    assert all(entry["source"].startswith("embedded:") for entry in stored["images"])
    assert reasons_of(converted) == {"bad": "empty_image", "none": "not_an_image"}
    # The quarantine has the record itself, so that it can be tried again.
    assert converted.rows[1]["record"] == rows[3]


def test_numbered_marks_and_indexed_parts_bring_the_images_into_the_order_of_the_text() -> None:
    chat = [{"role": "user", "content": "<|image_2|> or <|image_1|>?"}, ANSWER]
    talk, images, repairs = read({"messages": chat, "images": ["a", "b"]})
    assert (talk[0][1], images) == ("<image> or <image>?", ["b", "a"])
    assert repairs == ("placeholder_renamed",)
    parts = [{"type": "image", "index": 1, "text": None}, {"type": "image", "index": 0}]
    assert read({"messages": [{"role": "user", "content": parts}, ANSWER], "images": ["a", "b"]})[
        1
    ] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("<image1> and again <image1>", ["a.jpg", "b.jpg"]),
        ("<image3> <image4>", ["a.jpg", "b.jpg"]),
        ("What does <ImageHere> mean?", []),
        ("<image> and <image1>", ["a.jpg"]),
        ('`<img src="a.jpg">` is what?', []),
    ],
)
def test_marks_that_may_mean_something_else_stay_as_they_are(text: str, images: list[str]) -> None:
    chat = [{"role": "user", "content": text}, ANSWER]
    assert read({"messages": chat, "images": images}) == (
        [("human", text), ("gpt", "So.")],
        images,
        (),
    )


def test_labels_of_qwen_stay_and_a_list_that_repeats_them_counts_once() -> None:
    text = "Picture 1: <img>a.jpg</img>\nPicture 2: <img>b.jpg</img>\nWhich?"
    row = {"conversations": [{"from": "user", "value": text}, {"from": "assistant", "value": "1"}]}
    wanted = "Picture 1: <image>\nPicture 2: <image>\nWhich?"
    for beside in ({}, {"images": ["a.jpg", "b.jpg"]}):
        talk, images, _ = read({**row, **beside})
        assert (talk[0][1], images) == (wanted, ["a.jpg", "b.jpg"])


def test_a_row_with_one_question_gets_a_place_for_its_images_and_one_with_several_none() -> None:
    one = {"query": "Why?", "response": "So.", "images": ["a.jpg"]}
    assert read(one)[::2] == (
        [("human", "<image>\nWhy?"), ("gpt", "So.")], ("placeholder_added",)
    )  # fmt: skip
    assert read({**one, "history": [["a", "b"]]})[0][0] == ("human", "a")
    assert read({"image": "a.jpg", "caption": "A cat."})[0] == [
        ("human", "<image>\nDescribe the image."), ("gpt", "A cat.")
    ]  # fmt: skip
    answers = [{"answer": "two"}, {"answer": "three"}, {"answer": "three"}]
    row = {"image": "a.jpg", "question": "How many?", "answers": answers}
    assert read(row)[0][1] == ("gpt", "three")


# --- what is rejected -----------------------------------------------------------------------------

REFUSED: dict[str, tuple[Row, str]] = {
    "a video": ({"messages": [ASK, ANSWER], "videos": ["a.mp4"]}, "video_record"),
    "a video in LLaVA's form": (record("a", video="a.mp4"), "video_record"),
    "a part of video": (
        {"messages": [{"role": "user", "content": [{"type": "video_url"}]}, ANSWER]}, "video_record"
    ),
    "a sound": ({"messages": [ASK, ANSWER], "audios": ["a.mp3"]}, "audio_record"),
    "a part of sound": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "audio_record"
    ),
    "two answers": ({"messages": [ASK], "chosen": "a", "rejected": "b"}, "preference_record"),
    "tools": ({"messages": [ASK, ANSWER], "tools": [{"name": "f"}]}, "unread_field"),
    "a call": ({"messages": [ASK, {**ANSWER, "tool_calls": [{"id": 1}]}]}, "unread_field"),
    "choices": ({"question": "a", "answer": "B", "options": ["x", "y"]}, "unread_field"),
    "an image in an answer": (
        {"messages": [ASK, {"role": "assistant", "content": [{"type": "image"}]}]},
        "image_in_answer",
    ),
    "two lists of images": (
        {"messages": [ASK, ANSWER], "image": "a", "images": ["b"]}, "field_conflict"
    ),
    "two conversations": (
        {"instruction": "a", "output": "b", "conversations": {"x": 1}}, "field_conflict"
    ),
    "an odd part": (
        {"messages": [{"role": "user", "content": [{"type": "file"}]}, ANSWER]}, "bad_value"
    ),
    "an odd image": ({"messages": [ASK, ANSWER], "images": [3]}, "bad_image_field"),
    "odd bytes": ({"messages": [ASK, ANSWER], "images": [{"bytes": [1]}]}, "bad_embedded_image"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_right_reading_is_refused(what: str) -> None:
    row, reason = REFUSED[what]
    assert fault(row, form_of(row).read_as or "llava") == reason


def test_a_record_of_another_form_than_most_is_rejected_and_says_which(tmp_path: Path) -> None:
    rows = [{"id": "a", "instruction": "Why?", "output": "So."}] * 3
    chat = {"id": "b", "messages": [ASK, ANSWER]}
    converted = convert_in(tmp_path, [*rows, chat])
    (row,) = converted.rows
    assert row["reason"] == "other_form" and "messages with role and content" in row["message"]
    assert row["record"] == chat


# --- whole sources --------------------------------------------------------------------------------


def test_a_quarantined_record_is_retried_in_its_own_form(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(n),
            "messages": [{"role": "user", "content": "<image>"}, ANSWER],
            "images": [path],
        }
        for n, path in enumerate(("good.jpg", "late.jpg"))
    ]
    converted = convert_in(tmp_path, rows)
    assert reasons_of(converted) == {"1": "missing_image"}
    (tmp_path / "images" / "late.jpg").write_bytes(picture())
    assert retry(converted.out / "quarantine.jsonl").samples == 2
    assert [json.loads(m["json"])["id"] for m in converted.samples.values()] == ["0", "1"]


def test_a_row_corrected_in_its_own_form_is_retried(tmp_path: Path) -> None:
    rows = [{"id": str(n), "messages": [ASK, ANSWER]} for n in range(2)]
    rows[1]["messages"] = [ASK]
    converted = convert_in(tmp_path, rows)
    (row,) = converted.rows
    row["record"]["messages"].append(ANSWER)
    write_quarantine(converted.out, [row])
    assert retry(converted.out / "quarantine.jsonl").samples == 2


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_in_a_field_of_one_object_is_read_in_place(tmp_path: Path, indent: Any) -> None:
    rows = [{"id": str(n), "messages": [ASK, ANSWER]} for n in range(5)]
    whole = {'in\u00fc"fo': {"data": [1]}, "data": rows, "after": [2]}
    converted = convert_in(tmp_path, json.dumps(whole, indent=indent).encode(), shard_count=2)
    assert converted.report.samples == 5 and converted.report.format == "messages-json"
    assert [row["id"] for row in converted.records.values()] == list("01234")


def test_format_that_is_named_is_taken_and_an_unknown_one_refused(tmp_path: Path) -> None:
    row = {"id": "a", "question": "Why?", "answer": "So.", "messages": [ASK, ANSWER]}
    source = make_source(tmp_path, [row])
    for form, text in (("auto", "Why?"), ("vqa", "Why?"), ("messages", "Why?")):
        options = ConvertOptions(format=form, overwrite=True)
        report = convert(source, tmp_path / "images", tmp_path / "out", options)
        assert report.samples == 1 and report.format == f"{form.replace('auto', 'messages')}-json"
        assert bool(report.format_why) == (form == "auto") and text
    options = ConvertOptions(format="llava", overwrite=True)
    report = convert(source, tmp_path / "images", tmp_path / "out", options)
    assert report.rejections == {"missing_conversations": 1}
    with pytest.raises(ConfigError, match="--format xml: give one of auto, alpaca"):
        ConvertOptions(format="xml")


def test_every_look_at_a_source_reads_its_form(tmp_path: Path) -> None:
    inside = base64.b64encode(picture()).decode()
    shown = {"role": "user", "content": [{"type": "image", "bytes": inside}, {"text": "Why?"}]}
    rows = [
        {"id": "a", "messages": [shown, ANSWER], "n": 1},
        {"id": "b", "messages": [{"role": "user", "content": "<image>"}, ANSWER], "images": ["x"]},
        {"id": "c", "messages": [ASK, {"role": "tool", "content": "9"}]},
    ]
    source = make_source(tmp_path, rows)
    images = tmp_path / "images"
    looked = open_looked(source, images=images)
    sample = looked.sample(0)
    assert [turn.text for turn in sample.turns] == ["<image>Why?", "So."]
    assert [image.data for image in sample.images] == [picture()]
    assert looked.messages(0)[0] == {"from": "human", "value": "<image>Why?"}
    assert looked.encodable(0).images == [picture()]
    assert [view.findings[0].reason for view in looked.quarantined()] == [
        "missing_image", "unknown_role"
    ]  # fmt: skip
    third = looked.record(2)
    (finding,) = third.findings
    assert json.loads(third.text[finding.start : finding.end])["role"] == "tool"
    assert [row.reason for row in read_rows(looked)] == [None, "missing_image", "unknown_role"]
    counted = stats(source, images=images)
    assert counted.counted == 1 and counted.left_out == {"missing_image": 1, "unknown_role": 1}
    found = doctor(source, images)
    assert found.form.is_read and found.wrong == 2
    out = convert_in(tmp_path, rows).out
    assert diff(source, out, images_a=images).unchanged == 1


# --- a user's own format --------------------------------------------------------------------------

OWN = """
def records(path):
    for number, line in enumerate(path.read_text().splitlines()):
        question, answer = line.split("|")
        yield {"id": number, "conversations": [
            {"from": "human", "value": question}, {"from": "gpt", "value": answer}]}

def odd(path):
    yield {"conversations": []}
    yield {"conversations": {1, 2}}

def words(path):
    yield "word"
"""


def test_a_function_of_the_user_yields_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_format.py").write_text(OWN)
    (tmp_path / "talk.txt").write_text("Why?|So.\nHow?|Thus.\n")

    def run(function: str, source: str = "talk.txt") -> Any:
        options = ConvertOptions(reader=f"my_own_format:{function}", overwrite=True)
        return convert(tmp_path / source, None, tmp_path / "out", options)

    report = run("records")
    assert report.samples == 2
    (tmp_path / "talk.txt").write_text("Why?|So.\nHow?\n")
    with pytest.raises(
        RecordError, match=r"my_own_format:records: fails at record 1 of .*ValueErr"
    ):
        run("records")
    with pytest.raises(RecordError, match=r"record 1 .*TypeError.*set"):
        run("odd")
    with pytest.raises(RecordError, match="record 0 is a str; yield a dict"):
        run("words")
    with pytest.raises(ConfigError, match="has no function 'gone'"):
        run("gone")
    with pytest.raises(ConfigError, match="importing no_such_module fails: ModuleNotFound"):
        options = ConvertOptions(reader="no_such_module:f", overwrite=True)
        convert(tmp_path / "talk.txt", None, tmp_path / "out", options)


def test_turns_of_llava_are_untouched_by_all_this(tmp_path: Path) -> None:
    row = record("a", n=1.10, conversations=turns("<image> <image1> <img>", "So."))
    converted = convert_in(tmp_path, [row])
    stored = next(iter(converted.records.values()))
    assert stored.pop("images")[0]["source"] == "good.jpg" and stored == row
    assert converted.report.format == "llava-json" and converted.report.repairs == {}
