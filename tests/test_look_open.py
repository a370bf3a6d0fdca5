"""Records and samples by their number: of sources, datasets, typed datasets and quarantines."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from convert_help import make_source, record, shared, text_record, turns
from handmade import members, picture, valid_shards, write_dataset, write_source
from loader_help import VQA_FIELDS, typed_dataset, vqa_members
from test_real_sources import OTHERS, given_records

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.look.json_text import lay_out
from neva_prep.dataprep.look.open import Looked, open_looked
from neva_prep.dataprep.look.view import Turn
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.errors import ConfigError, NevaPrepError, RecordError, ShardError
from neva_prep.loaders.format import INDEX_FILE


def marked(looked: Looked, index: int) -> str | None:
    """The characters that a record's finding is about."""
    view = looked.record(index)
    (finding,) = view.findings
    return None if finding.start is None else view.text[finding.start : finding.end]


# What is broken -> the reason, and the place that is marked.
BROKEN: dict[str, tuple[Any, str, str | None]] = {
    "a field's type": (record("a", id=[1]), "bad_id", "[\n    1\n  ]"),
    "no conversation": (record("a", conversations=...), "missing_conversations", None),
    "an empty one": (record("a", conversations=[]), "empty_conversation", "[]"),
    "an unknown role": (
        record("a", conversations=[*turns("<image>"), {"from": "narrator", "value": "x"}]),
        "unknown_role",
        '"narrator"',
    ),
    "a turn without a text": (
        record("a", conversations=[{"from": "human"}]),
        "missing_value",
        '{\n      "from": "human"\n    }',
    ),
    "an empty answer": (text_record("a", "Why?", " "), "empty_value", '" "'),
    "two questions in a row": (
        record("a", conversations=[turns("<image>")[0], turns("b")[0]]),
        "roles_not_alternating",
        '{\n      "from": "human",\n      "value": "b"\n    }',
    ),
    "an image that is missing": (
        record("a", image=["none", "none.jpg"], conversations=turns("<image><image>", "x")),
        "missing_image",
        '"none.jpg"',
    ),
    "an image that leads out": (record("a", image="../x.jpg"), "path_traversal", '"../x.jpg"'),
    "an image that is none": (record("a", image="bad.jpg"), "not_an_image", '"bad.jpg"'),
    "a number as image": (record("a", image=["good.jpg", 3]), "bad_image_field", "3"),
    "no object": ([1], "not_an_object", None),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_record_is_shown_with_its_place(case: str, tmp_path: Path) -> None:
    row, reason, place = BROKEN[case]
    source = make_source(
        tmp_path, [record("ok"), row], {"bad.jpg": b"no image at all", "none": picture()}
    )
    looked = open_looked(source, images=tmp_path / "images")
    assert not looked.record(0).findings
    (finding,) = looked.record(1).findings
    assert finding.reason == reason
    assert marked(looked, 1) == place
    with pytest.raises(NevaPrepError) as caught:
        looked.sample(1)
    assert caught.value.reason == reason and "source.json: record 1: " in str(caught.value)
    # The quarantine of a conversion shows the same.
    convert(source, tmp_path / "images", tmp_path / "out")
    rejected = open_looked(tmp_path / "out/quarantine.jsonl")
    assert len(rejected) == 1 and marked(rejected, 0) == place
    view = rejected.record(0)
    assert view.findings[0].reason == reason and view.place.index == 1
    assert view.key == "000000001"
    assert view.text == looked.record(1).text
    with pytest.raises(RecordError, match="record 1"):
        rejected.sample(0)
    assert [found.text for found in open_looked(tmp_path / "out").quarantined()] == [view.text]
    assert [found.text for found in looked.quarantined()] == [view.text]


def test_text_that_is_no_json_is_shown_as_it_is_with_the_place(tmp_path: Path) -> None:
    lines = [json.dumps(text_record("a")).encode(), b'{"id": "b", oops}', b'{"id": "\xff"}']
    looked = open_looked(make_source(tmp_path, b"\n".join(lines)))
    view = looked.record(1)
    assert view.text == '{"id": "b", oops}' and view.place.line == 2
    assert (view.findings[0].reason, marked(looked, 1)) == ("invalid_json", "o")
    assert (looked.record(2).findings[0].reason, marked(looked, 2)) == ("invalid_utf8", "\\xff")


def test_the_text_keeps_what_parsing_would_lose(tmp_path: Path) -> None:
    raw = b'[{"id": 1.10, "a": 1e400, "a": "\\u00e9\\ud83d\\ude00", "deep": {"x": []}}]'
    text = open_looked(make_source(tmp_path, raw)).record(0).text
    assert '"id": 1.10,\n' in text and '"a": 1e400,\n  "a": "\\u00e9\\ud83d\\ude00",\n' in text
    assert '"deep": {\n    "x": []\n  }\n' in text


def test_a_deeply_nested_record_does_not_fill_the_memory() -> None:
    deep = "[" * 20_000 + "]" * 20_000
    assert len(lay_out(deep).text) < 2_500_000


def test_a_source_is_seen_as_its_conversion_is(tmp_path: Path) -> None:
    source, images = write_source(tmp_path)
    convert(source, images, tmp_path / "out", ConvertOptions(shard_count=5))
    before, after = open_looked(source, images=images), open_looked(tmp_path / "out")
    assert len(before) == len(after) == 12
    for index in range(12):
        first, second = before.sample(index), after.sample(index)
        assert (first.id, first.key, first.turns) == (second.id, second.key, second.turns)
        assert [image.data for image in first.images] == [image.data for image in second.images]
        assert [(i.width, i.height, i.format) for i in first.images] == [
            (i.width, i.height, i.format) for i in second.images
        ]
        assert first.fields.items() <= second.fields.items()
        assert before.messages(index) == after.messages(index)
        one, other = before.encodable(index), after.encodable(index)
        assert (one.__key__, one.id, one.messages, one.images) == (
            other.__key__,
            other.id,
            other.messages,
            other.images,
        )
        start = before.record(index).place.offset or 0
        assert source.read_bytes()[start : start + 1] == b"{"
        assert before.find(id=first.id) == after.find(id=first.id) == index
        assert before.find(key=first.key) == after.find(key=str(index)) == index


def test_a_source_without_its_images_shows_its_texts(tmp_path: Path) -> None:
    source, _ = write_source(tmp_path)
    sample = open_looked(source).sample(5)
    assert sample.turns[0].text == "<image>\n<image>\nQuestion 5?"
    assert [image.data for image in sample.images] == [None, None]
    assert sample.images[0].error == "5-0.jpg: give the folder of the images (--images) to see it"


def test_a_split_has_positions_of_its_own(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    looked = open_looked(path, split="val")
    assert (len(looked), looked.splits) == (2, {"train": 5, "val": 2})
    assert [looked.sample(n).key for n in (0, 1)] == ["000000005", "000000006"]
    assert looked.record(1).place.split == "val" and looked.record(1).place.index == 1
    assert looked.find(key="6") == 1 and looked.find(id="id-6") == 1
    with pytest.raises(ConfigError, match="has no sample with key '0'"):
        looked.find(key="0")
    with pytest.raises(ConfigError, match="has no split 'test'; it has train, val"):
        open_looked(path, split="test")


def test_a_sample_that_is_left_out_says_so(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds")
    split = path / ".nv-meta/split.yaml"
    split.write_text(
        split.read_text().replace("exclude: []", "exclude: [val-000000.tar/000000006]")
    )
    assert [finding.reason for finding in open_looked(path).record(6).findings] == ["excluded"]
    assert not open_looked(path).record(5).findings


def test_a_damaged_sample_of_a_dataset_still_gives_a_record(tmp_path: Path) -> None:
    shards = valid_shards()
    shards["train-000000.tar"]["000000002"].pop(0)
    shards["train-000000.tar"]["000000000"][0] = ("000.jpg", b"no image")
    looked = open_looked(write_dataset(tmp_path / "ds", shards))
    assert "lists 000.jpg, which the shard does not have" in looked.record(2).findings[0].message
    assert '"id": "id-2"' in looked.record(2).text
    assert "000.jpg: is no image of a known format" in looked.record(0).findings[0].message
    with pytest.raises(RecordError, match="sample 000000002"):
        looked.sample(2)
    assert "is no image" in str(looked.sample(0).images[0].error)


@pytest.mark.parametrize("index", [7, -1])
def test_a_number_that_is_not_there_is_a_usage_error(index: int, tmp_path: Path) -> None:
    dataset = open_looked(write_dataset(tmp_path / "ds"))
    source = open_looked(make_source(tmp_path, [text_record("a")]))
    for looked in (dataset, source):
        with pytest.raises(ConfigError, match=f"has no (sample|record) {index}"):
            looked.record(index)
        with pytest.raises(ConfigError, match="id 'zz'"):
            looked.find(id="zz")


def test_a_hostile_index_is_refused(tmp_path: Path) -> None:
    import sqlite3

    path = write_dataset(tmp_path / "ds")
    with sqlite3.connect(path / INDEX_FILE) as database:
        database.execute("UPDATE sample_parts SET content_byte_offset = -1 WHERE tar_file_id = 0")
        database.execute("UPDATE sample_parts SET content_byte_size = 9e9 WHERE tar_file_id = 1")
    for index in (0, 3):
        with pytest.raises(ShardError, match="the index points to bytes"):
            open_looked(path).record(index)


def test_a_source_that_breaks_in_its_middle_shows_what_stands_before(tmp_path: Path) -> None:
    whole = json.dumps([text_record("a"), text_record("b")])
    looked = open_looked(make_source(tmp_path, (whole[:-1] + ", {").encode()))
    assert looked.sample(1).id == "b"
    with pytest.raises(RecordError, match="record 2 is cut off"):
        len(looked)


def test_a_source_without_ids_or_of_another_form_is_shown(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    rows = [text_record("x", id=...), {"messages": chat}]
    looked = open_looked(make_source(tmp_path, rows))
    assert looked.record(0).id == looked.sample(0).id == "000000000"
    assert looked.record(1).findings[0].reason == "missing_conversations"
    assert looked.messages(1) == chat


def test_threads_may_look_at_once(tmp_path: Path) -> None:
    looked = open_looked(write_dataset(tmp_path / "ds"))
    found: list[str] = []

    def look() -> None:
        found.extend(looked.sample(index).key for index in range(7))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"{n:09d}" for n in range(7) for _ in range(4))


PNG = picture(20, 10, "PNG")
JSON_FIELDS = {"sequence": "json[row]"}
# Sample type -> field_map, members, turns, names of the images.
TYPED: dict[str, tuple[dict[str, str], Any, list[Turn], list[str]]] = {
    "VQASample": (
        VQA_FIELDS,
        vqa_members(0),
        [Turn(role="user", text="<image>\nWhat is it?"), Turn(role="assistant", text="A ring.")],
        ["jpg"],
    ),
    "CaptioningSample": (
        {"image": "png", "caption": "txt"},
        [("png", PNG), ("txt", "Ein Bär.".encode())],
        [Turn(role="user", text="<image>"), Turn(role="assistant", text="Ein Bär.")],
        ["png"],
    ),
    "InterleavedSample": (
        JSON_FIELDS,
        [("a.png", PNG), ("json", json.dumps({"row": ["See ", "a.png", " here."]}).encode())],
        [Turn(role="text", text="See <image> here.")],
        ["a.png"],
    ),
    "SimilarityInterleavedSample": (
        {"images": "json[im]", "texts": "json[t]", "matched_text_indices": "json[at]"},
        [
            ("a.png", PNG),
            ("json", json.dumps({"im": ["a.png"], "t": ["One.", "Two."], "at": [0]}).encode()),
        ],
        [Turn(role="text", text="One.<image>Two.")],
        ["a.png"],
    ),
    "MultiChoiceVQASample": (
        {
            "image": "png",
            "context": "json[q]",
            "choices": "json[c]",
            "correct_choice_idx": "json[i]",
        },
        [("png", PNG), ("json", json.dumps({"q": "Which?", "c": ["x", "y"], "i": 1}).encode())],
        [
            Turn(
                role="user",
                text="<image>\nWhich?\nA. x\nB. y\n"
                "Answer with the option's letter from the given choices directly.",
            ),
            Turn(role="assistant", text="B"),
        ],
        ["png"],
    ),
}


@pytest.mark.parametrize("sample_type", TYPED)
def test_typed_samples_are_seen_as_their_encoders_read_them(
    sample_type: str, tmp_path: Path
) -> None:
    field_map, sample, expected, names = TYPED[sample_type]
    looked = open_looked(typed_dataset(tmp_path / "ds", sample_type, field_map, [sample]))
    assert looked.kind == sample_type
    view = looked.sample(0)
    assert list(view.turns) == expected
    assert [image.name for image in view.images] == names
    assert [image.data for image in view.images] == [sample[0][1]]
    text = looked.record(0).text
    assert not looked.record(0).findings and json.loads(text).keys() >= field_map.keys()
    assert f'"<{names[0]}>"' in text
    assert type(looked.encodable(0)).__name__ == sample_type


def test_a_bad_typed_sample_tells_its_fault(tmp_path: Path) -> None:
    bad = vqa_members(0, answer="")
    gone = [("jpg", picture()), ("json", b'{"question": "x"}')]
    looked = open_looked(typed_dataset(tmp_path / "ds", "VQASample", VQA_FIELDS, [bad, gone]))
    assert "has no answers" in looked.record(0).findings[0].message
    assert '"context": "What is it?"' in looked.record(0).text
    assert "is no VQASample" in looked.record(1).findings[0].message
    assert looked.record(1).text == '{\n  "question": "x"\n}'
    for index in (0, 1):
        with pytest.raises(RecordError):
            looked.sample(index)


def test_a_dataset_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    path = typed_dataset(tmp_path / "ds", "VQASample", VQA_FIELDS, [vqa_members(0)])
    file = path / ".nv-meta/dataset.yaml"
    file.write_text(file.read_text() + "sample_loader: sample_loader.py:sample_loader\n")
    with pytest.raises(ShardError, match="a dataset may not run code"):
        open_looked(path)


def test_members_of_a_dataset_are_read_in_place(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": {"000000000": members(0, images=2)}})
    tar = (path / "train-000000.tar").read_bytes()
    for image in open_looked(path).sample(0).images:
        start = image.offset or 0
        assert tar[start : start + image.num_bytes] == image.data


DATA = shared("data")


@pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
@pytest.mark.parametrize("source", OTHERS)
def test_records_of_other_forms_are_shown_with_what_is_wrong(source: str) -> None:
    path = (DATA or Path()) / source
    looked = open_looked(path, images=path.parent)
    reasons: Counter[str] = Counter()
    for index in range(len(looked)):
        view = looked.record(index)
        (finding,) = view.findings
        reasons[finding.reason] += 1
        if finding.start is not None and finding.end is not None:
            assert 0 <= finding.start < finding.end <= len(view.text)
            json.loads(view.text[finding.start : finding.end])
        assert json.loads(view.text) == given_records(path)[index]
    assert reasons == OTHERS[source]


def test_a_number_below_0_and_a_source_without_records_are_told(tmp_path: Path) -> None:
    looked = open_looked(make_source(tmp_path, [text_record("a")]))
    with pytest.raises(ConfigError, match=r"has no record -1; they are counted from 0$"):
        looked.record(-1)
    with pytest.raises(ConfigError, match=r"has no record 1; it has 1, 0 to 0$"):
        looked.record(1)
    with pytest.raises(ConfigError, match="holds no record; there is nothing to look at"):
        open_looked(make_source(tmp_path, [])).record(0)


def test_a_row_of_a_table_has_no_byte_of_the_file(tmp_path: Path) -> None:
    table = tmp_path / "q.csv"
    table.write_text("question,answer\nWhy?,So.\n")
    place = open_looked(table).sample(0).place
    assert (place.offset, place.num_bytes, place.line) == (None, None, None)
    assert open_looked(table).record(0).place == place
    place = open_looked(make_source(tmp_path, [text_record("a")])).record(0).place
    assert place.line == 1 and place.offset is not None and place.num_bytes is not None


def test_images_of_coco_are_found_where_convert_finds_them(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    coco = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 2, "image_id": 1, "caption": "A cat."}],
    }
    source = tmp_path / "annotations" / "captions_val2017.json"
    source.write_text(json.dumps(coco))
    # Without them its texts are shown all the same.
    (image,) = open_looked(source).sample(0).images
    assert image.data is None
    (tmp_path / "val2017" / "1.jpg").write_bytes(picture())
    (image,) = open_looked(source).sample(0).images
    assert image.data == picture()


def test_a_rejected_record_is_found_in_the_quarantine(tmp_path: Path) -> None:
    source = make_source(tmp_path, [text_record("a"), record("b", "gone.jpg"), text_record("c")])
    out = tmp_path / "ds"
    convert(source, tmp_path / "images", out)
    for name in ({"key": "1"}, {"key": "000000001"}, {"id": "b"}):
        with pytest.raises(ConfigError, match=r"was rejected \(missing_image\); .* --index 0"):
            open_looked(out).find(**name)
    with pytest.raises(ConfigError, match="shows the key of the first"):
        open_looked(out).find(key="3")
