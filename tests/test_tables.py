"""CSV and TSV, captions of COCO and questions of VQAv2 become conversations."""

from __future__ import annotations

import csv
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from convert_help import Row, read_quarantine, run_cli, shared
from small_source import tree
from table_help import image, said, stored

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.options import ConvertOptions, parse_columns
from neva_prep.dataprep.readers.columns import choose_columns
from neva_prep.dataprep.readers.quotes import find_fault
from neva_prep.dataprep.stats.run import stats
from neva_prep.errors import ConfigError, RecordError

DATA = shared("data")
CAPTION = "<image>\nDescribe the image."


def write_table(path: Path, rows: list[list[str]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def write_images(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        (folder / f"{n}.jpg").write_bytes(image(3 * n))
    return [f"{n}.jpg" for n in range(count)]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_table_of_questions_round_trips(tmp_path: Path, delimiter: str) -> None:
    names = write_images(tmp_path / "i", 12)
    asked = [f'What, "{n}"; is|a\ttab?\nline é猫' for n in range(12)]
    rows = [["id", "image", "question", "answer"]]
    rows += [[f"x{n}", names[n], asked[n], str(n)] for n in range(12)]
    path = write_table(tmp_path / "table.csv", rows, delimiter)
    report = convert(path, tmp_path / "i", tmp_path / "out", ConvertOptions(workers=2))
    assert report.samples == 12 and not report.repairs
    assert f"parted by {delimiter!r}" in report.format_why
    assert report.format == f"vqa-{'tsv' if delimiter == chr(9) else 'csv'}"
    for n, (record, images) in enumerate(stored(tmp_path / "out")):
        assert said(record) == [("human", f"<image>\n{asked[n]}"), ("gpt", str(n))]
        assert record["id"] == f"x{n}" and images == [image(3 * n)]


HEADERS: dict[str, tuple[list[str], dict[str, str]]] = {
    "OpenCLIP": (["filepath", "title"], {"filepath": "image", "title": "caption"}),
    "Flickr30k": (["image_name", "comment"], {"image_name": "image", "comment": "caption"}),
    "capitals": (["Image", "Prompt", "Label"],
                 {"Image": "image", "Prompt": "question", "Label": "answer"}),
    "what convert reads as it is": (["instruction", "input", "output"], {}),
    "an id of its own": (["question_id", "image", "question", "answer"],
                         {"question_id": "id", "image": "image"}),
    "texts alone": (["title", "text"], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_columns_are_told_by_their_names(name: str) -> None:
    header, expected = HEADERS[name]
    assert choose_columns(header, {}).fields == expected


def test_user_names_the_columns_of_a_table(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    rows = [["a", "b", "answer", "c"], ["0.jpg", "ask", "no", "yes"], ["1.jpg", "ask", "no", "yes"]]
    path = write_table(tmp_path / "t.csv", rows)
    flags = ["--columns", "image=a,question=b,answer=c", "--json"]
    done = run_cli("convert", path, "--out", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    assert "'a' is the image" in json.loads(done.stdout)["format_why"]
    for record, images in stored(tmp_path / "out"):
        assert said(record) == [("human", "<image>\nask"), ("gpt", "yes")] and len(images) == 1
        assert record["source_answer"] == "no"
    wrong = run_cli("convert", path, "--out", tmp_path / "o", "--columns", "image=z")
    assert wrong.returncode == 2 and "there is no column 'z'; there are a, b, answer, c" in (
        wrong.stderr
    )
    with pytest.raises(ConfigError, match="write for example"):
        parse_columns("image")


@pytest.mark.parametrize("given", ["auto", "csv", "tsv"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_report_names_the_table_that_was_read(tmp_path: Path, kind: str, given: str) -> None:
    write_images(tmp_path, 1)
    mark = "\t" if kind == "tsv" else ","
    talk = json.dumps([{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}])
    tables = {"talk": [["image", "conversations"], ["0.jpg", talk]], "thin": [["conversations"]]}
    tables["thin"] += [[talk.replace("<image>", "hi")]]
    for name, rows in tables.items():
        path = write_table(tmp_path / f"{name}.{kind}", rows, mark)
        report = convert(path, None, tmp_path / name, ConvertOptions(format=given))
        assert (report.format, report.samples) == (f"llava-{kind}", 1)


def test_conversations_in_a_cell_are_json(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    talk = [{"from": "human", "value": "<image>hi"}, {"from": "gpt", "value": "yo"}]
    rows = [["image", "conversations"], ["0.jpg", json.dumps(talk)], ["0.jpg", "[broken"]]
    report = convert(write_table(tmp_path / "t.csv", rows), None, tmp_path / "out")
    assert report.samples == 1 and report.rejections == {"bad_conversations": 1}
    assert said(stored(tmp_path / "out")[0][0]) == [("human", "<image>hi"), ("gpt", "yo")]


def test_row_that_does_not_fit_the_header_is_quarantined_with_its_line(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    path = tmp_path / "t.csv"
    path.write_text("image,caption\n0.jpg,fine\n1.jpg,one,two\n2.jpg\n\n2.jpg,fine\n")
    report = convert(path, None, tmp_path / "out")
    assert (report.records, report.samples, report.rejected) == (4, 2, 2)
    found = [row["record"] for row in read_quarantine(tmp_path / "out")]
    assert found == [{"line": 3, "cells": ["1.jpg", "one", "two"]}, {"image": "2.jpg"}]


PLAIN = ['"Hello" he said', '"unbalanced quote here', "third", '5 "inch screen', '"a" and "b"', '"']
ODD_TSV: dict[str, tuple[list[str], list[str]]] = {
    "plain text": (PLAIN, PLAIN),
    "one mark at the very end": (["x", '"y'], ["x", '"y']),
    "marks in two rows": (['"red', "green", 'blue"'], ['"red', "green", 'blue"']),
    "quoted": (['"a ""b"" c"', '"tab\there"', '"two\nlines"', 'in "it'],
               ['a "b" c', "tab\there", "two\nlines", 'in "it']),
    "quoted, with an empty cell": (['"two\nlines"', '""', '"say ""x"""'],
                                   ["two\nlines", "", 'say "x"']),
}  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("place", ["last", "middle"])
@pytest.mark.parametrize("name", ODD_TSV)
def test_no_mark_in_a_tsv_swallows_a_row(tmp_path: Path, name: str, place: str, end: str) -> None:
    cells, expected = ODD_TSV[name]
    (tmp_path / "a.jpg").write_bytes(image(0))
    rows = [f"a.jpg\tWhat?\t{cell}" for cell in cells]
    header = "image\tquestion\tanswer"
    if place == "middle":
        rows = [f"a.jpg\t{cell}\tWhat?" for cell in cells]
        header = "image\tanswer\tquestion"
    (tmp_path / "t.tsv").write_bytes((end.join([header, *rows]) + end).encode())
    report = convert(tmp_path / "t.tsv", None, tmp_path / "out")
    assert report.records == len(cells)
    answers = [said(record)[1][1] for record, _ in stored(tmp_path / "out")]
    assert [a.replace("\r", "") for a in answers] == [a for a in expected if a]


def test_header_of_a_tsv_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(image(0))
    (tmp_path / "t.tsv").write_text('"image"\tcaption\n' + 'a.jpg\t"x" y\n' * 2)
    assert convert(tmp_path / "t.tsv", None, tmp_path / "out").samples == 2
    (tmp_path / "u.tsv").write_text('image\t"caption\n' + "a.jpg\tx\n" * 2)
    options = ConvertOptions(columns={"caption": '"caption'})
    assert convert(tmp_path / "u.tsv", None, tmp_path / "out2", options).samples == 2


ODD_CSV = {
    "never closed": ('a.jpg,x\na.jpg,"two\nlines"\na.jpg,"y\na.jpg,z\n', 5, "is never closed"),
    "closed too soon": ('a.jpg,x\na.jpg,"so" he said\n', 3, "ends before its cell does"),
    "closed too late": ('a.jpg,"x\na.jpg,y" z\n', 2, "ends before its cell does"),
}


@pytest.mark.parametrize("name", ODD_CSV)
@pytest.mark.parametrize("mark", [",", ";", "|"])
def test_mark_that_encloses_no_cell_of_a_csv_is_refused_with_its_line(
    tmp_path: Path, name: str, mark: str
) -> None:
    rows, line, what = ODD_CSV[name]
    (tmp_path / "t.csv").write_text(f"image,caption\n{rows}".replace(",", mark))
    with pytest.raises(RecordError, match=rf"t\.csv: line {line}: a cell .* mark that {what}; "):
        convert(tmp_path / "t.csv", None, tmp_path / "out")


def test_marks_are_judged_as_by_a_strict_reader() -> None:
    chance = random.Random(7)
    for _ in range(3000):
        mark = chance.choice(",;|\t")
        text = "".join(chance.choices(['"', "a", mark, "\n", "\r\n"], k=chance.randrange(13)))
        fault = find_fault(io.StringIO(text, newline=""), mark, 2, is_tsv=False)
        try:
            list(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True))
        except csv.Error:
            assert fault is not None, text
        else:
            assert fault is None, text


def test_lines_within_a_cell_of_a_csv_are_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(image(0))
    (tmp_path / "t.csv").write_text(
        'image,caption\na.jpg,"one, ""two""\n\na.jpg,three"\na.jpg,x "y\n'
    )
    assert convert(tmp_path / "t.csv", None, tmp_path / "out").samples == 2
    answers = [said(record)[1][1] for record, _ in stored(tmp_path / "out")]
    assert answers == ['one, "two"\n\na.jpg,three', 'x "y']


BROKEN: dict[str, tuple[bytes, str]] = {
    "two columns of one name": (b"image,image\na,b\n", "two columns named 'image'"),
    "Latin-1": (("image,caption\n" + "a,é\n" * 9).encode("latin-1"), "is not UTF-8"),
    "no rows": (b"image,caption\n", "holds no record"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_table_is_refused_as_a_whole(tmp_path: Path, name: str) -> None:
    content, expected = BROKEN[name]
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(RecordError, match=expected):
        convert(tmp_path / "t.csv", None, tmp_path / "out", ConvertOptions(format="csv"))


@pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
@pytest.mark.parametrize("name", ["alpaca", "alpaca2", "swift_single", "swift_pre"])
def test_tables_of_ms_swift(tmp_path: Path, name: str) -> None:
    path = (DATA or Path()) / "ms-swift" / "tests" / "llm" / "data" / f"{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    report = convert(path, None, tmp_path / "out")
    if name == "swift_pre":
        assert report.rejections == {"missing_conversations": len(rows)}
        return
    assert report.samples == len(rows)
    for (record, _), row in zip(stored(tmp_path / "out"), rows, strict=True):
        asked = row.get("query") or "\n".join(
            text for text in (row.get("instruction"), row.get("input")) if text
        )
        system = [("system", row["system"])] if row.get("system") else []
        answer = row.get("response") or row.get("output")
        assert said(record) == [*system, ("human", asked), ("gpt", answer)]


# COCO.


@pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
@pytest.mark.parametrize("subset", ["train2017", "val2017"])
def test_captions_of_coco_find_their_images(tmp_path: Path, subset: str) -> None:
    root = (DATA or Path()) / "coco-mini"
    path = root / "annotations" / f"captions_{subset}.json"
    given = json.loads(path.read_bytes())
    files = {image["id"]: image["file_name"] for image in given["images"]}
    report = convert(path, None, tmp_path / "out")
    found = {record["id"]: (record, images) for record, images in stored(tmp_path / "out")}
    rejected = {row["id"] for row in read_quarantine(tmp_path / "out")}
    assert report.records == len(given["annotations"]) == len(found) + len(rejected)
    assert set(report.rejections) <= {"missing_image"} and found
    for annotation in given["annotations"]:
        image = root / subset / files[annotation["image_id"]]
        if annotation["id"] in rejected:
            assert not image.exists()
            continue
        record, images = found[annotation["id"]]
        assert said(record) == [("human", CAPTION), ("gpt", annotation["caption"])]
        assert images == [image.read_bytes()]
        assert record["image_id"] == annotation["image_id"]


def write_coco(path: Path, **changes: Any) -> Path:
    images = [{"id": n * 7, "file_name": f"{n}.jpg", "width": 16} for n in range(4)]
    captions = [{"id": n, "image_id": (n % 4) * 7, "caption": f"thing {n}"} for n in range(9)]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": captions, **changes}))
    return path


def test_caption_without_its_image_is_quarantined(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    captions = [{"id": 1, "image_id": 5, "caption": "x"}, {"id": 2, "image_id": 7, "caption": "y"}]
    path = write_coco(tmp_path / "c.json", annotations=captions)
    report = convert(path, tmp_path, tmp_path / "out")
    assert report.rejections == {"missing_image": 1}
    assert "image_id 5" in read_quarantine(tmp_path / "out")[0]["message"]


def test_caption_without_an_image_id_gets_no_image(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    images = [{"file_name": "0.jpg"}, {"id": None, "file_name": "1.jpg"}]
    captions = [{"id": 1, "caption": "x"}, {"id": 2, "image_id": None, "caption": "y"}]
    path = write_coco(tmp_path / "c.json", images=images, annotations=captions)
    report = convert(path, tmp_path, tmp_path / "out")
    assert (report.samples, report.rejections) == (0, {"missing_image": 2})


@pytest.mark.parametrize("kind", ["coco", "csv"])
def test_same_bytes_whatever_the_workers_and_whatever_is_staged(tmp_path: Path, kind: str) -> None:
    names = write_images(tmp_path, 4)
    if kind == "coco":
        path = write_coco(tmp_path / "c.json")
    else:
        rows = [["image", "caption"], *([name, f"a {name}"] for name in names * 3)]
        path = write_table(tmp_path / "c.csv", rows)
    for workers in (1, 2):
        options = ConvertOptions(workers=workers, shard_count=4, split={"train": 0.5, "val": 0.5})
        convert(path, tmp_path, tmp_path / f"out{workers}", options)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")


# VQAv2.


def write_vqa(folder: Path) -> tuple[Path, list[Row], list[Row]]:
    questions = [
        {"image_id": n, "question": f"What is {n}?", "question_id": n * 1000} for n in range(6)
    ]
    annotations = [
        {"question_id": n * 1000, "image_id": n, "multiple_choice_answer": f"most {n}",
         "answers": [{"answer": f"other {n}", "answer_id": 1}], "answer_type": "other"}
        for n in reversed(range(5))
    ]  # fmt: skip
    (folder / "train2014").mkdir()
    for n in range(6):
        path = folder / "train2014" / f"COCO_train2014_{n:012d}.jpg"
        path.write_bytes(image(3 * n))
    head = {"info": {}, "data_subtype": "train2014"}
    asked = folder / "v2_OpenEnded_mscoco_train2014_questions.json"
    asked.write_text(json.dumps({**head, "questions": questions}))
    answers = folder / "v2_mscoco_train2014_annotations.json"
    answers.write_text(json.dumps({**head, "annotations": annotations}))
    return asked, questions, annotations


def test_questions_of_vqav2_are_joined_with_their_answers(tmp_path: Path) -> None:
    asked, questions, _ = write_vqa(tmp_path)
    report = convert(asked, None, tmp_path / "out")
    # The last question has no answers.
    assert report.samples == 5 and report.rejected == 1
    for n, (record, images) in enumerate(stored(tmp_path / "out")):
        assert said(record) == [
            ("human", f"<image>\n{questions[n]['question']}"),
            ("gpt", f"most {n}"),
        ]
        assert images == [image(3 * n)] and record["id"] == n * 1000
        assert record["answers"][0]["answer"] == f"other {n}"
    moved = tmp_path / "elsewhere.json"
    (tmp_path / "v2_mscoco_train2014_annotations.json").rename(moved)
    with pytest.raises(RecordError, match="not beside it; give the answers with --annotations"):
        convert(asked, None, tmp_path / "out2")
    options = ConvertOptions(annotations=str(moved))
    assert convert(asked, None, tmp_path / "out2", options).samples == 5


def test_question_without_an_id_gets_no_answer(tmp_path: Path) -> None:
    asked, questions, annotations = write_vqa(tmp_path)
    del questions[0]["question_id"], annotations[-1]["question_id"]
    questions[1]["question_id"] = annotations[-2]["question_id"] = None
    asked.write_text(json.dumps({"data_subtype": "train2014", "questions": questions}))
    answers = tmp_path / "v2_mscoco_train2014_annotations.json"
    answers.write_text(json.dumps({"annotations": annotations}))
    report = convert(asked, None, tmp_path / "out")
    assert (report.samples, report.rejections) == (3, {"missing_conversations": 3})
    assert [record["id"] for record, _ in stored(tmp_path / "out")] == [2000, 3000, 4000]


def test_inspect_and_stats_look_into_tables_and_archives(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 3)
    rows = [["image", "caption"], *([name, f"a {name}"] for name in names)]
    path = write_table(tmp_path / "c.csv", rows)
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / "i" / name, name)
    looked = open_looked(path, images=tmp_path / "i.zip")
    assert len(looked) == 3 and not list(looked.quarantined())
    assert looked.sample(1).images[0].data == image(3)
    found = stats(path, images=tmp_path / "i.zip")
    assert (found.counted, found.one_image, found.left_out) == (3, 3, {})
