"""What fuzzing found, each as a small source of its own."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from convert_help import (
    convert_in,
    make_source,
    read_quarantine,
    read_samples,
    record,
    run_cli,
    text_record,
    turns,
)
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.diff import DiffReport, diff
from neva_prep.dataprep.doctor.doctor import doctor
from neva_prep.dataprep.report import ConvertReport
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ImageError, RecordError, ShardError
from neva_prep.loaders import open_dataset
from neva_prep.loaders.format import read_manifest
from neva_prep.loaders.image_folder import ImageFolder

QUESTIONS, ANSWERS = "v2_OpenEnded_x_questions.json", "v2_x_annotations.json"


def test_a_strange_role_is_no_hurdle_for_the_manifest(tmp_path: Path) -> None:
    odd = b'{"id": "odd", "conversations": [{"from": "hu\\ud800", "value": "x"}]}\n'
    done = convert_in(tmp_path, odd + json.dumps(record("good")).encode())
    assert (done.report.samples, done.report.rejected) == (1, 1)
    assert b"ud800" in (done.out / "neva-prep.json").read_bytes()


def test_verify_finds_no_fault_with_what_convert_let_pass(tmp_path: Path) -> None:
    whole = picture(20, 10, "PNG")
    place = whole.index(b"IDAT")
    damaged = whole[: place + 1] + b"\n" + whole[place + 2 :]
    done = convert_in(tmp_path, [record("png", "x.png")], {"x.png": damaged})
    assert done.report.samples == 1
    assert verify(done.out).is_whole


def vqav2(folder: Path, answers: bytes, **fields: Any) -> ConvertReport:
    asked = [{"image_id": n, "question": f"What {n}?", "question_id": n} for n in range(2)]
    (folder / QUESTIONS).write_text(json.dumps({"questions": asked, **fields}))
    (folder / ANSWERS).write_bytes(answers)
    for number in range(2):
        (folder / f"{number}").write_bytes(picture())
    return convert(folder / QUESTIONS, folder, folder / "out")


GIVEN = [{"question_id": n, "multiple_choice_answer": "yes"} for n in range(2)]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (b'{"annotations": [', "is no JSON object"),
        (b'{"answers": []}', "has no field 'annotations'"),
    ],
)
def test_answers_that_cannot_be_read_are_told(answers: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        vqav2(tmp_path, answers)
    assert ANSWERS in str(caught.value)


def test_an_answer_that_is_no_utf8_costs_its_question_alone(tmp_path: Path) -> None:
    answers = json.dumps({"annotations": GIVEN}).encode().replace(b"yes", b"y\xeds", 1)
    report = vqav2(tmp_path, answers)
    assert (report.records, report.samples, report.rejected) == (2, 1, 1)


def test_a_name_too_long_for_a_folder_is_none(tmp_path: Path) -> None:
    report = vqav2(tmp_path, json.dumps({"annotations": GIVEN}).encode(), data_subtype="a" * 400)
    assert report.samples == 2


def test_half_a_surrogate_pair_in_a_tar_costs_its_record_alone(tmp_path: Path) -> None:
    rows = [turns("<image>What?", "That."), turns("<image>W\ud800t?", "That.")]
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number, talk in enumerate(rows):
            content = json.dumps({"conversations": talk}).encode()
            for name, data in (("jpg", picture()), ("json", content)):
                entry = tarfile.TarInfo(f"{number}.{name}")
                entry.size = len(data)
                tar.addfile(entry, BytesIO(data))
    report = convert(tmp_path / "s.tar", None, tmp_path / "out")
    assert (report.samples, report.rejected) == (1, 1)
    assert len(read_samples(tmp_path / "out")) == 1
    assert [row["reason"] for row in read_quarantine(tmp_path / "out")] == ["lone_surrogate"]


def test_half_a_surrogate_pair_in_an_object_of_records_costs_its_record_alone(
    tmp_path: Path,
) -> None:
    rows = [record(str(n), conversations=turns(f"<image>W{n}?", "That.")) for n in range(3)]
    source = json.dumps({"info": {}, "data": rows}).replace("W1", "W\\ud800")
    done = convert_in(tmp_path, source.encode())
    assert (done.report.samples, done.report.rejected) == (2, 1)
    assert [(row["index"], row["reason"]) for row in done.rows] == [(1, "lone_surrogate")]


def test_a_saved_dataset_that_names_what_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    state = {"_data_files": [{"filename": "gone.arrow"}]}
    (tmp_path / "saved/state.json").write_text(json.dumps(state))
    with pytest.raises(RecordError, match=r"'gone.arrow', which datasets noted, is not there"):
        convert(tmp_path / "saved", None, tmp_path / "out")


@pytest.mark.parametrize("nested", [False, True])
def test_a_column_whose_name_is_no_text_is_told(tmp_path: Path, nested: bool) -> None:
    pa = pytest.importorskip("pyarrow")
    kind = pa.struct([("zname", pa.string())]) if nested else pa.string()
    schema = pa.schema([("text", pa.string()), ("outer" if nested else "zname", kind)])
    table = schema.empty_table()
    path = tmp_path / "s.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes().replace(b"zname", b"\xceame\xce"))
    with pytest.raises(RecordError, match=r"s\.arrow: the table is damaged: .*utf-8"):
        convert(path, None, tmp_path / "out")


def compared(folder: Path, a: list[Any], b: list[Any]) -> DiffReport:
    for name, rows in (("a.json", a), ("b.json", b)):
        (folder / name).write_text(json.dumps(rows))
    return diff(folder / "a.json", folder / "b.json")


def test_what_a_turn_has_beside_role_and_text_is_compared(tmp_path: Path) -> None:
    talk = turns("Why?", "So.")
    other = [talk[0], {**talk[1], "weight": 0}]
    report = compared(tmp_path, [text_record("a")], [text_record("a", weight=0)])
    assert report.changed_in == {"fields": 1}
    report = compared(
        tmp_path, [record("a", conversations=talk)], [record("a", conversations=other)]
    )
    assert report.changed_in == {"fields": 1}
    assert [field.name for field in report.changed_rows[0].fields] == ["conversations"]


def test_ids_like_keys_are_ids_where_the_rows_are_turned_round(tmp_path: Path) -> None:
    rows = [text_record(f"{n:09d}", "Why?", str(n)) for n in range(3)]
    assert compared(tmp_path, rows, rows[::-1]).is_same
    edited = [text_record("000000001", "Why?", "So."), rows[0], rows[2]]
    report = compared(tmp_path, rows, edited)
    assert (report.changed, report.added, report.removed) == (1, 0, 0)
    assert report.changed_in == {"text": 1}


def test_an_image_path_with_half_a_surrogate_pair_is_missing(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("odd", "a\ud800.jpg"), record("good")])
    report = doctor(source, tmp_path / "images", fix=tmp_path / "fixed.json")
    assert (report.records, report.wrong) == (2, 1)
    with pytest.raises(ImageError, match="does not exist"):
        ImageFolder(str(tmp_path / "images")).open("\ud800/a.jpg")


def test_a_source_without_human_turns_gets_no_placeholder(tmp_path: Path) -> None:
    def talk(question: str) -> list[dict[str, str]]:
        return [{"from": "user", "value": question}, {"from": "assistant", "value": "So."}]

    rows = [record(str(n), conversations=talk("<image>Why?")) for n in range(3)]
    source = make_source(tmp_path, [*rows, record("a", conversations=talk("Why?"))])
    report = doctor(source, tmp_path / "images", fix=tmp_path / "fixed.json")
    assert report.form.name == "sharegpt" and report.fixed is not None
    assert report.fixed.left == 1 and report.fixed.rejections == {"placeholder_missing": 1}


@pytest.mark.parametrize(
    "rows",
    [
        [record("a", "/data/images/good.jpg"), record("b", "x/good.jpg")],
        [record("a", "GOOD.jpg", image_path="y/good.jpg"), record("b", "x/good.jpg")],
    ],
    ids=["the folder's own name", "a field that is not read"],
)
def test_a_repaired_source_has_no_more_to_repair(tmp_path: Path, rows: list[Any]) -> None:
    source = make_source(tmp_path, rows)
    for name in ("once.json", "twice.json"):
        report = doctor(source, tmp_path / "images", fix=tmp_path / name)
        source = tmp_path / name
    assert report.fixed is not None and not report.fixed.edits
    paths = [row["image"] for row in json.loads((tmp_path / "once.json").read_text())]
    assert paths == ["good.jpg", "good.jpg"]


def test_lines_with_commas_count_for_the_form_of_their_source(tmp_path: Path) -> None:
    asked = [{"from": "user", "value": "Why?"}, {"from": "assistant", "value": "So."}]
    rows = [text_record("a"), text_record("b"), text_record("c", conversations=asked)]
    ends = (",\n", ",\n", "\n")
    text = "".join(json.dumps(row) + end for row, end in zip(rows, ends, strict=True))
    source = make_source(tmp_path, text.encode())
    report = doctor(source, tmp_path / "images", fix=tmp_path / "fixed.json")
    assert report.fixed is not None and report.fixed.left == 0
    assert convert(tmp_path / "fixed.json", tmp_path / "images", tmp_path / "out").samples == 3


def _bytes(name: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes().replace(old, new, 1))


DAMAGES: dict[str, Callable[[Path], object]] = {
    ".nv-meta/.info.json": _bytes(".nv-meta/.info.json", b"shard", b"sh\xb9rd"),
    ".nv-meta/split.yaml": _bytes(".nv-meta/split.yaml", b"train-", b"train{"),
    "neva-prep.json": _bytes("neva-prep.json", b'"neva"', b'"nevb"'),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_verify_tells_of_damaged_metadata(name: str, tmp_path: Path) -> None:
    done = convert_in(tmp_path, [record(str(n)) for n in range(4)])
    DAMAGES[name](done.out)
    report = verify(done.out)
    assert name in {finding.file for finding in report.findings}


@pytest.mark.parametrize("read", [verify, read_manifest])
def test_a_manifest_that_is_no_utf8_is_told(tmp_path: Path, read: Callable[[Path], object]) -> None:
    done = convert_in(tmp_path, [record("a")])
    _bytes("neva-prep.json", b': "neva"', b': "n\xb9va"')(done.out)
    with pytest.raises(ShardError, match=r"neva-prep\.json: is damaged .*; "):
        read(done.out)


@pytest.mark.parametrize("name", [".nv-meta/.info.json", ".nv-meta/split.yaml"])
@pytest.mark.parametrize("command", ["inspect", "plan --gpus 1", "stats"])
def test_commands_tell_of_damaged_metadata(name: str, command: str, tmp_path: Path) -> None:
    done = convert_in(tmp_path, [record(str(n)) for n in range(4)])
    DAMAGES[name](done.out)
    told = run_cli(*command.split(), done.out)
    assert (told.returncode, "Traceback" in told.stderr) == (3, False), told.stderr
    assert f"{name}: " in told.stderr


@pytest.mark.parametrize("name", [".nv-meta/.info.json", ".nv-meta/split.yaml"])
def test_what_streams_tells_of_damaged_metadata(name: str, tmp_path: Path) -> None:
    done = convert_in(tmp_path, [record(str(n)) for n in range(4)])
    DAMAGES[name](done.out)
    with pytest.raises(ShardError, match=f"{re.escape(name)}: .*; "):
        open_dataset(done.out)


@pytest.mark.parametrize("place", ["find", "rfind"])
def test_verify_reads_tables_and_indexes_of_the_sample_index(tmp_path: Path, place: str) -> None:
    done = convert_in(tmp_path, [record(str(n)) for n in range(4)])
    path = done.out / ".nv-meta/index.sqlite"
    data = bytearray(path.read_bytes())
    at = getattr(data, place)(b"000.jpg")
    data[at : at + 7] = b"000.jph"
    path.write_bytes(data)
    assert verify(done.out).exit_code == 3
