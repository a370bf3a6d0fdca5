"""The repaired source: it converts, says the same, and differs only where the diff says so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from convert_help import Row, files_of, make_source, record, run_cli, shared, text_record, turns
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.doctor import doctor
from neva_prep.dataprep.doctor.edits import EDITS
from neva_prep.dataprep.doctor.report import DoctorReport
from neva_prep.errors import ConfigError

DATA = shared("data")


def fix(
    folder: Path, records: list[Any] | bytes, images: dict[str, bytes] | None = None, **given: Any
) -> tuple[DoctorReport, list[Any]]:
    """Fix a source; its records afterwards."""
    source = make_source(folder, records, images)
    report = doctor(source, folder / "images", fix=folder / "fixed.json", **given)
    text = (folder / "fixed.json").read_text()
    lines = [json.loads(line) for line in text.split("\n") if line and text[0] == "{"]
    return report, lines or json.loads(text)


def fixes(folder: Path, row: Row, images: dict[str, bytes] | None = None, **given: Any) -> Row:
    """Fix a single record, and see that convert takes it and the report counts it."""
    report, (fixed,) = fix(folder, [row], images, **given)
    assert report.fixed is not None
    assert (report.fixed.repaired, report.fixed.left, report.exit_code) == (1, 0, 0)
    assert convert(folder / "fixed.json", folder / "images", folder / "out").samples == 1
    result: Row = fixed
    return result


def test_roles_and_fields_get_the_names_that_convert_reads(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "<image>Why?"},
        {"role": "assistant", "content": "Because."},
    ]
    row = {"id": "a", "images": ["good.jpg"], "messages": chat, "n": 1.10}
    report, (fixed, *_) = fix(tmp_path, [row, record("b"), record("c")])
    assert report.form.name == "llava" and report.repairable == 1 and report.exit_code == 0
    talk = [{"from": "system", "value": "Be kind."}, *turns("<image>Why?", "Because.")]
    assert fixed == {"id": "a", "images": ["good.jpg"], "conversations": talk, "n": 1.10}


def test_a_missing_placeholder_is_added_before_the_first_question(tmp_path: Path) -> None:
    row = record("a", ["good.jpg", "good.jpg"], conversations=turns("Why?", "So.", "And?", "So."))
    fixed = fixes(tmp_path, row)
    assert fixed["conversations"] == turns("<image>\n<image>\nWhy?", "So.", "And?", "So.")


def test_other_marks_become_placeholders_only_where_the_counts_agree(tmp_path: Path) -> None:
    row = record("a", conversations=turns("See <ImageHere>!", "So."))
    report, (fixed, *_) = fix(tmp_path, [row, record("b"), record("c")])
    assert fixed["conversations"] == turns("See <image>!", "So.") and report.repairable == 1
    two = record("a", conversations=turns("<ImageHere> <ImageHere>", "So."))
    report, (left,) = fix(tmp_path, [two], overwrite=True, remove_surplus=True)
    assert left == two and report.exit_code == 4


@pytest.mark.parametrize("marks", [("<image2>", "<image1>"), ("<image1>", "<image1>")])
def test_marks_that_name_other_images_than_their_places_are_left(
    tmp_path: Path, marks: tuple[str, str]
) -> None:
    numbered = record("a", ["good.jpg"] * 2, conversations=turns("{} or {}?".format(*marks), "So."))
    rows = [numbered, *(record(str(number)) for number in range(3))]
    report, fixed = fix(tmp_path, rows)
    assert fixed == rows and report.repairable == 0


def test_a_tag_in_a_text_about_html_is_no_mark(tmp_path: Path) -> None:
    row = record("a", conversations=turns("What does `<img>` do?", "So."))
    fixed = fix(tmp_path, [row, record("b"), record("c")])[1]
    assert fixed[0]["conversations"] == turns("<image>\nWhat does `<img>` do?", "So.")


def test_roles_are_not_renamed_where_tools_would_be_lost(tmp_path: Path) -> None:
    asked = [{"from": "user", "value": "Why?"}, {"from": "assistant", "value": "So."}]
    rows = [{"id": "a", "conversations": asked, "tools": "[1]"}]
    rows += [record(str(number)) for number in range(3)]
    assert fix(tmp_path, rows)[1] == rows


def test_surplus_placeholders_go_only_when_asked_and_the_last_ones_first(tmp_path: Path) -> None:
    rows = [
        record("a", conversations=turns("<image>\nWhy?", "So.", "<image>\nAnd?", "So <image>.")),
        text_record("b", "<image>\nWhy?", "So."),
    ]
    assert fix(tmp_path, rows)[1] == rows
    report, fixed = fix(tmp_path, rows, remove_surplus=True, overwrite=True)
    assert fixed[0]["conversations"] == turns("<image>\nWhy?", "So.", "And?", "So <image>.")
    assert fixed[1]["conversations"] == turns("Why?", "So.") and report.exit_code == 0


# Path in the record -> files -> the path that it becomes.
PATHS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "case": ("Cat.JPG", ("cat.jpg",), "cat.jpg"),
    "folder's case": ("Train/cat.jpg", ("train/cat.jpg",), "train/cat.jpg"),
    "extension": ("a/cat.png", ("a/cat.jpeg",), "a/cat.jpeg"),
    "no extension": ("a/cat", ("a/cat.jpg",), "a/cat.jpg"),
    "folder left out": ("cat.jpg", ("coco/train/cat.jpg",), "coco/train/cat.jpg"),
    "folder too much": ("data/coco/cat.jpg", ("coco/cat.jpg",), "coco/cat.jpg"),
    "the images' own folder": ("data/images/cat.jpg", ("cat.jpg",), "cat.jpg"),
    "absolute": ("/home/someone/coco/cat.jpg", ("coco/cat.jpg",), "coco/cat.jpg"),
    "of Windows": ("coco\\cat.jpg", ("coco/cat.jpg",), "coco/cat.jpg"),
    "drive": ("C:\\data\\coco\\cat.jpg", ("coco/cat.jpg",), "coco/cat.jpg"),
    "escaped": ("my%20cat.jpg", ("my cat.jpg",), "my cat.jpg"),
    "space around": (" cat.jpg ", ("cat.jpg",), "cat.jpg"),
    "upwards": ("../of/images/cat.jpg", ("cat.jpg",), "cat.jpg"),
    "accents": ("caf\u00e9.jpg", ("cafe\u0301.jpg",), "cafe\u0301.jpg"),
    "better of two": ("cat.jpg", ("a/cat.png", "b/cat.jpg"), "b/cat.jpg"),
}


@pytest.mark.parametrize("what", PATHS)
def test_path_is_corrected_to_the_one_file_that_it_can_mean(tmp_path: Path, what: str) -> None:
    given, files, wanted = PATHS[what]
    pictures = {name: picture() for name in files}
    assert fixes(tmp_path, record("a", given), pictures)["image"] == wanted


NOT_MEANT: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "two files": (["cat.jpg"], ("a/cat.jpg", "b/cat.jpg")),
    "another folder": (["train2014/1.jpg"], ("train2017/1.jpg",)),
    "no image": (["cat.jpg"], ("cat.txt",)),
    "one file for two": (["coco/1.jpg", "vg/1.jpg"], ("1.jpg",)),
    "one folder for two": (["coco/train/1.jpg", "vg/train/1.jpg"], ("train/1.jpg",)),
}


@pytest.mark.parametrize("what", NOT_MEANT)
def test_path_that_may_mean_another_picture_is_left_alone(tmp_path: Path, what: str) -> None:
    paths, files = NOT_MEANT[what]
    rows = [record(path, path) for path in paths]
    report, fixed = fix(tmp_path, rows, {name: picture() for name in files})
    assert fixed == rows and report.repairable == 0 and report.exit_code == 4


def test_a_link_out_of_the_folder_is_no_file_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture())
    make_source(tmp_path, [])
    (tmp_path / "images" / "a").mkdir()
    (tmp_path / "images" / "a" / "cat.jpg").symlink_to(tmp_path / "secret.jpg")
    assert fix(tmp_path, [record("a", "cat.jpg")])[0].exit_code == 4


def test_images_under_another_name_are_seen_and_settled(tmp_path: Path) -> None:
    row = {"id": "a", "img_path": "good.jpg", "conversations": turns("<image>Why?", "So.")}
    spelled = {**row, "img_path": "good.jpeg"}
    unmarked = {**row, "conversations": turns("Why?", "So.")}
    report, fixed = fix(tmp_path, [row, spelled, unmarked])
    assert fixed[:2] == [row, row] and (report.wrong, report.repairable) == (2, 2)
    assert fixed[2] == {**row, "conversations": turns("<image>\nWhy?", "So.")}


def test_an_empty_path_of_an_image_becomes_null(tmp_path: Path) -> None:
    assert fix(tmp_path, [text_record("b", image="")])[1] == [text_record("b", image=None)]


def test_a_record_without_id_gets_the_key_that_convert_would_give(tmp_path: Path) -> None:
    rows = [record("a"), text_record("b", id=...), text_record("c", id=None)]
    source = make_source(tmp_path, json.dumps(rows, indent=1).encode())
    report = doctor(source, tmp_path / "images", fix=tmp_path / "fixed.json")
    assert report.wrong == 0 and report.fixed is not None
    assert report.fixed.edits == {"id_added": 2}
    assert [row["id"] for row in json.loads((tmp_path / "fixed.json").read_text())] == [
        "a", "000000001", "000000002"
    ]  # fmt: skip


def test_what_would_be_lost_is_not_renamed(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    rows = [
        {"messages": chat, "system": "Be kind."},
        {"messages": chat, "videos": ["a.mp4"]},
        {"messages": [*chat, {"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, chat[1]]},
    ]
    rows += [record(str(number)) for number in range(5)]
    report, fixed = fix(tmp_path, rows)
    assert fixed == rows and (report.wrong, report.repairable) == (4, 0)


def test_lines_are_cleaned_of_commas_and_byte_order_marks(tmp_path: Path) -> None:
    mark, line = b"\xef\xbb\xbf", json.dumps(text_record("a")).encode()
    content = mark + line + b",\n" + mark + line + b"\n\n" + line + b"\n"
    report, rows = fix(tmp_path, content)
    assert rows[:2] == [text_record("a")] * 2 and report.exit_code == 0
    assert (tmp_path / "fixed.json").read_bytes() == line + b"\n" + line + b"\n\n" + line + b"\n"


MIXED = [
    record("good", n=1.50, text="\\u00e9 / <tag>"),
    record("lost", "gone.jpg"),
    record("case", "GOOD.JPG"),
    text_record("empty", "Why?", ""),
    record("roles", conversations=[{**turns("<image>")[0], "from": "user"}, turns("a", "b")[1]]),
    record("last"),
]


@pytest.mark.parametrize("layout", ["array", "indented", "lines", "one line"])
def test_every_other_byte_is_the_source_s(tmp_path: Path, layout: str) -> None:
    texts = [json.dumps(row, indent=3 if layout == "indented" else None) for row in MIXED]
    between = {"lines": "\r\n\n", "one line": ","}.get(layout, " ,\n  ")
    ends = ("", "\n") if layout == "lines" else (" [\t", "]\n\n")
    source = make_source(tmp_path, (ends[0] + between.join(texts) + ends[1]).encode())
    report = doctor(source, tmp_path / "images", fix=tmp_path / "fixed.json")
    texts[2] = texts[2].replace("GOOD.JPG", "good.jpg")
    texts[4] = texts[4].replace('"user"', '"human"')
    wanted = ends[0] + between.join(texts) + ends[1]
    assert (tmp_path / "fixed.json").read_bytes() == wanted.encode()
    assert report.fixed is not None and report.exit_code == 4
    assert (report.fixed.repaired, report.fixed.left) == (2, 2)
    assert report.fixed.rejections == {"empty_value": 1, "missing_image": 1}


def test_converting_the_fixed_source_gives_what_the_report_says(tmp_path: Path) -> None:
    source = make_source(tmp_path, MIXED)
    before = convert(source, tmp_path / "images", tmp_path / "before")
    report, _ = fix(tmp_path, MIXED)
    after = convert(tmp_path / "fixed.json", tmp_path / "images", tmp_path / "after")
    assert report.fixed is not None and report.fixed.rejections == after.rejections
    assert (before.samples, after.samples) == (2, 4)


def test_the_diff_names_every_change_and_nothing_else(tmp_path: Path) -> None:
    fix(tmp_path, MIXED)
    assert (tmp_path / "fixed.json.diff").read_text().splitlines() == [
        "--- source.json: record 2 (id 'case'), line 1, byte 334",
        "+++ fixed.json",
        "@@ image: image_path_corrected @@",
        '-"GOOD.JPG"',
        '+"good.jpg"',
        "--- source.json: record 4 (id 'roles'), line 1, byte 584",
        "+++ fixed.json",
        "@@ conversations[0].from: role_renamed @@",
        '-"user"',
        '+"human"',
    ]


def test_the_source_is_never_replaced_and_others_only_when_asked(tmp_path: Path) -> None:
    source = make_source(tmp_path, MIXED)
    os.link(source, tmp_path / "linked.json")
    (tmp_path / "there.json").write_text("mine")
    (tmp_path / "other.json.diff").write_text("mine")
    before = files_of(tmp_path)
    images = ("--images", tmp_path / "images", "--fix")
    for name in ("source.json", "linked.json"):
        done = run_cli("doctor", source, *images, tmp_path / name, "--overwrite")
        assert done.returncode == 2 and "the source itself" in done.stderr
    for name in ("there.json", "other.json", "images", "none/fixed.json"):
        assert run_cli("doctor", source, *images, tmp_path / name).returncode == 2
    assert files_of(tmp_path) == before
    done = run_cli("doctor", source, *images, tmp_path / "there.json", "--overwrite")
    assert done.returncode == 4 and json.loads((tmp_path / "there.json").read_text())
    with pytest.raises(ConfigError):
        doctor(source, tmp_path / "images", fix=source, overwrite=True)


def test_a_megabyte_of_text_is_fixed_and_its_diff_stays_short(tmp_path: Path) -> None:
    row = record("a", conversations=turns("x" * 1_000_000, "So."))
    assert fixes(tmp_path, row)["conversations"][0]["value"].startswith("<image>\nxxx")
    assert (tmp_path / "fixed.json.diff").stat().st_size < 1000


REAL = {
    # Source -> what convert takes of it, before and after.
    "llama-factory/data/mllm_demo.json": (6, 6, 6),
    "mantis/data/examples/chat/train.json": (50, 50, 50),
    "xcomposer/finetune/data/multi_turn_multi_images_example.json": (2, 0, 2),
    "ms-swift/tests/llm/data/conversations.jsonl": (3, 3, 3),
    "llama-factory/data/mllm_video_demo.json": (3, 0, 0),
}


@pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
@pytest.mark.parametrize("name", REAL)
def test_real_source_converts_once_it_is_fixed(tmp_path: Path, name: str) -> None:
    records, before, after = REAL[name]
    source = (DATA or Path()) / name
    report = doctor(source, source.parent, fix=tmp_path / "fixed.json")
    assert (report.records, report.records - report.wrong) == (records, before)
    converted = convert(tmp_path / "fixed.json", source.parent, tmp_path / "out")
    assert converted.samples == after


def test_the_page_lists_every_edit_with_its_meaning_and_no_other() -> None:
    page = Path(__file__).parents[1] / "docs" / "doctor.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    assert set(rows) >= {f"| `{kind}` | {meaning} |" for kind, meaning in EDITS.items()}
    assert len([row for row in rows if row.count("|") == 3]) == len(EDITS)
