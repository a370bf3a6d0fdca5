"""Images of other forms, and records that have no right reading."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from convert_help import Row, convert_in, reasons_of, record, turns
from form_help import ANSWER, ASK, fault, read
from handmade import picture

from neva_prep.dataprep.readers.record_forms import form_of

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
    ("numbers", "images"),
    [([1, 2, 3], "abc"), ([3, 1, 2], "cab"), ([0, 2, 1], "acb"), ([1, 1, 2], "bbca")],
)
def test_parts_may_count_their_images_from_0_or_from_1(numbers: list[int], images: str) -> None:
    parts = [{"type": "image", "index": number} for number in numbers]
    row = {"messages": [{"role": "user", "content": parts}, ANSWER], "images": ["a", "b", "c"]}
    assert read(row)[1] == list(images)


@pytest.mark.parametrize("numbers", [[7, 0], [0, 2], [1, 3]])
def test_a_part_that_names_an_image_that_is_not_there_is_rejected(numbers: list[int]) -> None:
    parts = [{"type": "image", "index": number} for number in numbers]
    row = {"messages": [{"role": "user", "content": parts}, ANSWER], "images": ["a", "b"]}
    assert fault(row) == "placeholder_mismatch"


def test_a_tag_in_a_text_about_html_stays() -> None:
    chat = [{"role": "user", "content": "<p>What does <img> do in <p>?</p>"}, ANSWER]
    talk, images, repairs = read({"messages": chat, "images": ["a.jpg"]})
    assert (talk[0][1], images, repairs) == (chat[0]["content"], ["a.jpg"], ())


MORE: dict[str, tuple[Row, list[tuple[str, str]], list[str]]] = {
    "a system text": ({"system": "Be kind."}, [("system", "Be kind.")], []),
    "an image by another name": ({"image_path": "a.jpg"}, [], ["a.jpg"]),
    "an image in the text": (
        {"conversations": turns("<img>a.jpg</img>Why?", "So.")}, [], ["a.jpg"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MORE)
def test_what_llavas_form_has_no_field_for_is_not_lost_from_such_a_record(what: str) -> None:
    row, first, images = MORE[what]
    text = "<image>Why?" if images else "Why?"
    row = {"id": "a", "conversations": turns(text, "So."), **row}
    assert read(row, "llava")[:2] == ([*first, ("human", text), ("gpt", "So.")], images)


@pytest.mark.parametrize(
    ("beside", "reason"),
    [
        ({"tools": "[1]"}, "unread_field"),
        ({"video_path": "a.mp4"}, "video_record"),
        ({"chosen": "a", "rejected": "b"}, "preference_record"),
        ({"img": "a.jpg", "image_path": "b.jpg"}, "field_conflict"),
    ],
)
def test_what_no_form_has_a_turn_for_is_rejected_in_llavas_form(beside: Row, reason: str) -> None:
    assert fault({"id": "a", "conversations": turns("Why?", "So."), **beside}, "llava") == reason


@pytest.mark.parametrize("name", ["image_path", "image_url", "img", "file_name"])
def test_a_source_whose_images_have_another_name_is_no_text(tmp_path: Path, name: str) -> None:
    rows = [{"id": str(n), name: "good.jpg", "conversations": turns("Why?", "So.")} for n in (1, 2)]
    assert reasons_of(convert_in(tmp_path, rows)) == dict.fromkeys("12", "placeholder_missing")


def test_a_name_beside_the_image_is_no_other_image() -> None:
    row = record("a", file_name="b.jpg", image_url="http://x/y.jpg")
    assert read(row, "llava")[1:] == (["good.jpg"], ())


def test_rows_of_the_cauldron_as_json_are_questions_and_answers() -> None:
    texts = [
        {"user": "Why?", "assistant": "So.", "source": "x"},
        {"user": "And?", "assistant": "Y"},
    ]
    row = {"images": ["a.jpg"], "texts": texts}
    assert form_of(row).read_as == "pairs"
    spoken = [("human", "Why?"), ("gpt", "So."), ("human", "And?"), ("gpt", "Y")]
    assert read(row)[:2] == (spoken, ["a.jpg"])


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("<image1> and again <image1>", ["a.jpg", "b.jpg"]),
        ("<image3> <image4>", ["a.jpg", "b.jpg"]),
        ("What does <ImageHere> mean?", []),
        ("<ImageHere> or <ImageHere>?", ["a.jpg"]),
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
