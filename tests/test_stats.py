"""Statistics are what a naive recount gives, of a source and of the dataset made from it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from convert_help import convert_in, make_source, record, shared, text_record, turns
from handmade import members, picture, valid_shards, write_dataset, write_source

from neva_prep.dataprep.stats import DatasetStats, stats
from neva_prep.errors import ConfigError, NevaPrepError, RecordError, ShardError

LONG = "long " * 40_000


def many_records() -> tuple[list[Any], dict[str, bytes]]:
    """Records of every number of images and turns, some of them bad."""
    pictures = {
        f"{n}.jpg": picture(30 + n, 20, "PNG" if n % 3 == 0 else "JPEG", quality=90)
        for n in range(9)
    }
    rows: list[Any] = []
    for n in range(120):
        names = [f"{(n + k) % 9}.jpg" for k in range((0, 1, 1, 1, 2)[n % 5])]
        says = [f" Question {n % 7}? ", ("Yes", " Yes", "No", f"Answer {n}")[n % 4]] * (1 + n % 3)
        says[0] = "<image>\n" * len(names) + says[0] if n % 2 else says[0] + "<image>" * len(names)
        image: Any = names[0] if len(names) == 1 else names or ...
        rows.append(record(f"r{n}", image, conversations=turns(*says)))
    rows[13]["image"] = "missing.jpg"
    rows[40]["conversations"][0]["from"] = "narrator"
    rows[50]["conversations"][1]["value"] = LONG + "Yes"
    rows[51] = {"id": "no conversation"}
    rows[60] = "no object"
    return rows, pictures


BAD = {13, 40, 51, 60}


def recount(rows: list[Any]) -> dict[str, Any]:
    """The same figures by the simplest way."""
    good = [row for n, row in enumerate(rows) if n not in BAD]
    images = [
        [row["image"]] if isinstance(row.get("image"), str) else row.get("image", [])
        for row in good
    ]
    says = [[turn["value"].replace("<image>", "").strip() for turn in row["conversations"]]
            for row in good]  # fmt: skip
    return {
        "counted": len(good),
        "images": Counter(map(len, images)),
        "turns": Counter(map(len, says)),
        "questions": Counter(text for row in says for text in row[0::2]),
        "answers": Counter(text for row in says for text in row[1::2]),
        "paths": Counter(path for row in images for path in row),
    }


def check(found: DatasetStats, rows: list[Any]) -> None:
    expected = recount(rows)
    assert found.counted == expected["counted"]
    assert found.turns.count == found.counted
    assert found.turns.total == sum(n * k for n, k in expected["turns"].items())
    assert {bar.start: bar.count for bar in found.turns.bars if bar.count} == expected["turns"]
    assert (found.text_only, found.one_image) == (expected["images"][0], expected["images"][1])
    assert found.multi_image == expected["images"][2]
    for frequent, counts in (
        (found.questions, expected["questions"]),
        (found.answers, expected["answers"]),
        (found.image_files, expected["paths"]),
    ):
        assert (frequent.total, frequent.different) == (counts.total(), len(counts))
        assert frequent.max_undercount == 0
        assert {use.text: use.count for use in frequent.top} == {
            text[:500]: count for text, count in counts.items()
        }
        assert [use.count for use in frequent.top] == sorted(counts.values(), reverse=True)
    assert found.question_chars is not None and found.answer_chars is not None
    assert found.question_chars.total == sum(
        len(text) * count for text, count in expected["questions"].items()
    )
    assert found.answer_chars.max == len(LONG) + 3


@pytest.mark.parametrize("workers", [1, 2])
def test_figures_of_a_source_are_those_of_a_recount(tmp_path: Path, workers: int) -> None:
    rows, pictures = many_records()
    source = make_source(tmp_path, rows, pictures)
    found = stats(source, images=tmp_path / "images", top=100, workers=workers)
    check(found, rows)
    assert found.left_out == {
        "missing_image": 1,
        "unknown_role": 1,
        "missing_conversations": 1,
        "not_an_object": 1,
    }
    assert found.seen == found.counted + len(BAD) == len(rows)
    assert "record 13" in found.examples["missing_image"][0]


@pytest.mark.parametrize("workers", [1, 2])
def test_figures_of_a_dataset_are_those_of_its_source(tmp_path: Path, workers: int) -> None:
    rows, pictures = many_records()
    made = convert_in(tmp_path, rows, pictures, shard_count=10, split={"train": 0.8, "val": 0.2})
    found = stats(made.out, top=100, workers=workers)
    check(found, rows)
    assert found.seen == found.counted == made.report.samples
    assert found.quarantined == made.report.rejections
    assert found.splits == made.report.splits and found.shards == made.report.shards
    assert found.num_bytes == made.report.bytes
    assert found.image_bytes is not None and found.image_bytes.total == made.report.image_bytes
    source = stats(tmp_path / "source.json", images=tmp_path / "images", top=100).to_dict()
    same = ("turns", "images", "image_bytes", "widths", "heights", "sizes", "formats", "scripts")
    assert {name: found.to_dict()[name] for name in same} == {name: source[name] for name in same}


def test_a_split_is_counted_alone(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d")
    parts = [stats(dataset, split=name) for name in ("train", "val")]
    assert [part.counted for part in parts] == [5, 2]
    assert [part.shards for part in parts] == [2, 1]
    assert {use.text for use in parts[1].questions.top} == {"Question 5?", "Question 6?"}
    assert stats(dataset).counted == 7


def test_lines_are_counted_like_an_array_and_a_broken_line_has_its_reason(tmp_path: Path) -> None:
    lines = [json.dumps(text_record(f"t{n}", f"Why {n % 3}?", "So.")) for n in range(30)]
    lines[7] = lines[7][:-4]
    (tmp_path / "lines.jsonl").write_text("\n\n".join(lines))
    found = stats(tmp_path / "lines.jsonl", workers=2)
    assert (found.seen, found.counted, found.left_out) == (30, 29, {"invalid_json": 1})
    assert [use.count for use in found.questions.top] == [10, 10, 9]


def test_images_are_what_their_bytes_are_and_without_a_folder_what_paths_claim(
    tmp_path: Path,
) -> None:
    pictures = {"a.jpg": picture(30, 20, "PNG"), "b.webp": picture(64, 48, "WEBP"), "c.tar": b"no"}
    rows = [record(f"r{n}", name) for n, name in enumerate(["a.jpg", "b.webp", "a.jpg", "c.tar"])]
    source = make_source(tmp_path, rows, pictures)
    found = stats(source, images=tmp_path / "images")
    assert found.formats == {"png": 2, "webp": 1} and not found.formats_are_claimed
    assert [(size.width, size.height, size.count) for size in found.sizes] == [
        (30, 20, 2),
        (64, 48, 1),
    ]
    assert found.left_out == {"not_an_image": 1}
    assert found.image_bytes is not None
    assert found.image_bytes.total == 2 * len(pictures["a.jpg"]) + len(pictures["b.webp"])
    claimed = stats(source)
    assert claimed.formats == {"jpg": 2, "webp": 1, "other": 1} and claimed.formats_are_claimed
    assert claimed.sizes == () and claimed.widths is None and claimed.unmeasured_images == 4
    assert claimed.image_files.repeats == 1


def test_a_dataset_of_unlooked_images_says_that_sizes_are_unknown(tmp_path: Path) -> None:
    rows = [record("a", "odd.bin"), record("b", "odd.bin"), record("c")]
    found = stats(convert_in(tmp_path, rows, {"odd.bin": b"no image"}, check="none").out)
    assert found.unmeasured_images == 2 and [size.count for size in found.sizes] == [1]
    assert found.formats == {"other": 2, "jpg": 1}


def test_scripts_are_counted_by_letters_and_a_placeholder_is_none(tmp_path: Path) -> None:
    rows = [
        record("zh", conversations=turns("<image>\n这是什么？", "一只猫。")),
        text_record("mixed", "Что это?", "A cat."),
        text_record("signs", "1 + 1 = ?", "2"),
    ]
    found = {use.script: use for use in stats(make_source(tmp_path, rows)).scripts}
    assert (found["Han"].mostly, found["Han"].letters) == (1, 7)
    assert (found["Cyrillic"].mostly, found["Cyrillic"].letters) == (1, 6)
    assert (found["Latin"].mostly, found["Latin"].any, found["Latin"].letters) == (0, 1, 4)
    assert found["no letters"].mostly == 1


def test_damaged_samples_are_counted_with_their_reason(tmp_path: Path) -> None:
    shards = valid_shards()
    first = shards["train-000000.tar"]
    first["000000001"] = [*members(1, images=2)[:-1], ("json", b'{"id": 1')]
    first["000000002"] = members(2)[:-1]
    dataset = write_dataset(tmp_path / "d", shards)
    with sqlite3.connect(dataset / ".nv-meta/index.sqlite") as database:
        database.execute(
            "UPDATE sample_parts SET content_byte_offset = 1 << 40 "
            "WHERE tar_file_id = 1 AND sample_index = 0 AND part_name = 'json'"
        )
    config = {"split_parts": {"train": [*shards][:2], "val": [*shards][2:]}}
    config["exclude"] = ["val-000000.tar/000000006"]  # type: ignore[assignment]
    (dataset / ".nv-meta/split.yaml").write_text(yaml.dump(config))
    found = stats(dataset)
    assert found.left_out == {
        "damaged_member": 1,
        "not_in_index": 1,
        "damaged_shard": 1,
        "excluded": 1,
    }
    assert (found.seen, found.counted) == (7, 3)
    assert "000000001" in found.examples["damaged_member"][0]


def test_member_that_contradicts_the_shard_or_itself_is_left_out(tmp_path: Path) -> None:
    shards = valid_shards()
    pictures, record_part = members(0, images=2)[:-1], members(0, images=1)[-1]
    shards["train-000000.tar"]["000000000"] = [*pictures, record_part]
    shards["train-000000.tar"]["000000002"] = members(2, text="<image> more?")
    found = stats(write_dataset(tmp_path / "d", shards))
    assert found.left_out == {"damaged_member": 2} and found.seen == 7


def test_record_with_odd_fields_of_no_interest_counts(tmp_path: Path) -> None:
    shards = valid_shards()
    parts = members(0)
    content = parts[-1][1][:-1] + b', "note": "\\ud800", "big": 1e400}'
    shards["train-000000.tar"]["000000000"] = [*parts[:-1], ("json", content)]
    found = stats(write_dataset(tmp_path / "d", shards))
    assert found.left_out == {} and found.counted == 7
    assert ("Question 0?", 1) in {(use.text, use.count) for use in found.questions.top}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"split": "test"}, ConfigError, "only train, val"),
        ({"split": "empty"}, ConfigError, "empty split 'empty'"),
        ({"images": "."}, ConfigError, "has its images in it"),
        ({"workers": 0}, ConfigError, "1 or more"),
        ({"top": -1}, ConfigError, "0 to"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, given: dict[str, Any], error: type[NevaPrepError], said: str
) -> None:
    dataset = write_dataset(tmp_path / "d")
    config = yaml.safe_load((dataset / ".nv-meta/split.yaml").read_text())
    if given.get("split") == "empty":
        config["split_parts"]["empty"] = []
    (dataset / ".nv-meta/split.yaml").write_text(yaml.dump(config))
    with pytest.raises(error, match=said):
        stats(dataset, **given)


def test_nothing_to_count_is_an_error_that_says_why(tmp_path: Path) -> None:
    source = tmp_path / "source.json"
    source.write_text("[]")
    with pytest.raises(RecordError, match="empty"):
        stats(source)
    source.write_text('[{"id": 1}, {"id": 2}, 3]')
    with pytest.raises(RecordError) as caught:
        stats(source)
    assert "none of 3 records" in str(caught.value)
    assert "missing_conversations 2, not_an_object 1" in str(caught.value)
    with pytest.raises(ConfigError, match="no splits"):
        stats(source, split="train")
    with pytest.raises(ShardError, match=r"\.info\.json"):
        stats(tmp_path)


def test_a_shard_that_is_gone_is_an_error(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d")
    (dataset / "train-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000001\.tar"):
        stats(dataset)


def test_progress_ends_where_the_data_ends(tmp_path: Path) -> None:
    source, images = write_source(tmp_path)
    calls: list[tuple[int, int]] = []
    stats(source, images=images, progress=lambda done, total: calls.append((done, total)))
    done, total = calls[-1]
    assert total == source.stat().st_size and 0.8 * total < done <= total
    dataset = write_dataset(tmp_path / "d")
    stats(dataset, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] == sum(p.stat().st_size for p in dataset.glob("*.tar"))


# Forms of sources: name of the file -> its records, in each the same question, answer and image.
FORMS: dict[str, Any] = {
    "messages.jsonl": [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "good.jpg"}, "Why?"]},
                {"role": "assistant", "content": "So."},
            ]
        }
    ],
    "pairs.jsonl": [
        {"image": "good.jpg", "conversation": [{"human": "<image>Why?", "assistant": "So."}]}
    ],
    "vqa.jsonl": [{"img_id": "good.jpg", "question": "Why?", "answer": "So."}],
    "query.jsonl": [{"images": ["good.jpg"], "query": "Why?", "response": "So."}],
    "table.tsv": "image\tquestion\tanswer\n" + "good.jpg\tWhy?\tSo.\n" * 3,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("workers", [1, 2])
def test_most_frequent_texts_are_told_of_sources_in_any_form(
    tmp_path: Path, name: str, workers: int
) -> None:
    make_source(tmp_path, [])
    source, given = tmp_path / name, FORMS[name]
    lines = given if isinstance(given, str) else "\n".join(map(json.dumps, given * 3))
    source.write_text(f"{lines}\n")
    found = stats(source, images=tmp_path / "images", workers=workers)
    told = [
        (use.text.strip(), use.count)
        for frequent in (found.questions, found.answers, found.image_files)
        for use in frequent.top
    ]
    assert told == [("Why?", 3), ("So.", 3), ("good.jpg", 3)]
    assert found.num_bytes == source.stat().st_size


DATA = shared("data")


@pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
def test_real_llava_records(tmp_path: Path) -> None:
    assert DATA is not None
    source = DATA / "llava-instruct-100/llava_instruct_100.json"
    rows = json.loads(source.read_text())
    found = stats(source, top=3)
    assert found.counted == found.seen == 100
    assert found.turns.total == sum(len(row["conversations"]) for row in rows)
    assert found.image_files.different == len({row["image"] for row in rows})
    assert found.formats == {"jpg": 100}
    with pytest.raises(RecordError, match="missing_image 100"):
        stats(source, images=tmp_path)
