"""What the doctor says of a source: convert's own findings, and what would repair them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from convert_help import Row, convert_in, make_source, record, run_cli, shared, text_record, turns
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.doctor import doctor
from neva_prep.dataprep.doctor.report import DoctorReport
from neva_prep.dataprep.options import ConvertOptions

DATA = shared("data")


def said(*parts: str) -> list[Row]:
    """Turns of any roles: role and text in turns."""
    return [{"from": r, "value": v} for r, v in zip(parts[::2], parts[1::2], strict=True)]


BAD: list[Any] = [
    record("good"),
    record("no-mark", conversations=turns("What?", "That.")),
    record("two-marks", conversations=turns("<image><image>", "That.")),
    record("lost", "gone.jpg"),
    record("roles", conversations=said("user", "<image>", "bot", "b")),
    text_record("empty", "Why?", " "),
    text_record("no-answer", "Why?"),
    record("both", "gone.jpg", conversations=said("USER", "a", "x", "b")),
    record("not-an-image", "text.jpg"),
    7,
]


def examine(folder: Path, records: list[Any] | bytes, **options: Any) -> DoctorReport:
    source = make_source(folder, records, {"text.jpg": b"hello"})
    return doctor(source, folder / "images", ConvertOptions(**options))


def test_the_doctor_finds_what_convert_finds_record_by_record(tmp_path: Path) -> None:
    report = examine(tmp_path, BAD)
    converted = convert_in(tmp_path, BAD, {"text.jpg": b"hello"})
    assert {f.reason: f.records for f in report.faults} == converted.report.rejections
    assert report.wrong == converted.report.rejected and report.records == len(BAD)
    found = {(e.index, e.byte, e.message) for f in report.faults for e in f.examples}
    assert found == {(row["index"], row["byte"], row["message"]) for row in converted.rows}


@pytest.mark.parametrize("workers", [1, 2])
def test_lines_are_told_whatever_the_number_of_processes(tmp_path: Path, workers: int) -> None:
    rows = [json.dumps(row).encode() for row in BAD]
    report = examine(tmp_path, b"\n\n".join(rows), workers=workers, shard_count=2)
    lines = {e.index: e.line for f in report.faults for e in f.examples}
    assert lines == {index: 2 * index + 1 for index in lines} and len(lines) == len(BAD) - 1


def test_a_source_without_a_fault_is_fine_and_exits_with_0(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("a"), text_record("b")])
    done = run_cli("doctor", source, "--images", tmp_path / "images")
    assert done.returncode == 0 and "All 2 records are fine" in done.stdout
    assert "What to do" not in done.stdout


def test_each_fault_is_told_with_its_way_out(tmp_path: Path) -> None:
    report = examine(tmp_path, BAD)
    advice = {f.reason: " ".join(f.advice) for f in report.faults}
    assert "no file of that name" in advice["missing_image"]
    assert "--remove-surplus" in advice["placeholder_mismatch"]
    assert "roles get the names" in advice["unknown_role"] and ": x" in advice["unknown_role"]
    assert any("--placeholder insert" in text for text in report.ways_out)
    assert report.repairable == 2 and any("repairs 2 of 9" in text for text in report.ways_out)


def test_faults_behind_one_that_an_edit_takes_away_are_told_too(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    rows = [{"id": "a", "image": "gone.jpg", "messages": chat}, record("b"), record("c")]
    report = examine(tmp_path, rows)
    assert [f.reason for f in report.faults] == ["missing_conversations"]
    assert set(report.behind) == {
        "missing_role", "unknown_role", "placeholder_missing", "missing_image"
    }  # fmt: skip


# Broken lines: each with the advice that fits it.
LINES = {
    b'{"id": 1, "x": NaN, "conversations": []}': "NaN and Infinity",
    b"{'id': 1}": "single quotes",
    b'{"id": None}': "None, True and False",
    b'{"id": 1,}': "before the closing bracket",
    b'{"id": 1}{"id": 2}': "two records on one line",
    b'{"id": "a': "cut off",
    b"[": "only a bracket",
}


@pytest.mark.parametrize("line", LINES)
def test_broken_line_is_explained(tmp_path: Path, line: bytes) -> None:
    good = json.dumps(text_record("a")).encode()
    report = examine(tmp_path, good + b"\n" + line + b"\n" + good)
    (fault,) = report.faults
    assert fault.reason == "invalid_json" and fault.examples[0].line == 2
    assert LINES[line] in next(iter(fault.advice))


GOOD = json.dumps(record("a")).encode()
WHOLE = {
    # Content -> what is said of the way out.
    b"[" + GOOD + b",\n]\n": f"remove the comma before the closing ']': byte {1 + len(GOOD)}",
    b"[" + GOOD + b"][" + GOOD + b"]": "jq -s add",
    b"[" + GOOD + b" " + GOOD + b"]": "put a comma between",
    b"[" + GOOD + b",, " + GOOD + b"]": "remove the second of the two commas",
    b"[" + GOOD: "its end is missing",
    b"[{'id': 'a'}]": "single quotes",
    b'{"a": ' + GOOD + b"}": "to_entries",
}


@pytest.mark.parametrize("content", WHOLE, ids=list(WHOLE.values()))
def test_unreadable_source_exits_with_3_and_says_what_mends_it(
    tmp_path: Path, content: bytes
) -> None:
    report = examine(tmp_path, content)
    assert not report.readable and report.exit_code == 3 and "byte" in report.error
    assert WHOLE[content] in " ".join(report.ways_out)
    done = run_cli("doctor", tmp_path / "source.json", "--fix", tmp_path / "fixed.json", "--json")
    assert done.returncode == 3 and json.loads(done.stdout)["readable"] is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "source.json"]


def test_a_missing_source_and_folder_are_refused(tmp_path: Path) -> None:
    assert run_cli("doctor", tmp_path / "none.json").returncode == 3
    source = make_source(tmp_path, [record("a")])
    assert run_cli("doctor", source, "--images", tmp_path / "none").returncode == 2
    assert run_cli("doctor", tmp_path, "--images", tmp_path).returncode == 3


def test_the_folder_that_was_meant_is_guessed_below_and_above(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(4)]
    files = {f"coco/train2017/{name}": picture() for name in names[:3]}
    source = make_source(tmp_path, [record(name, name) for name in names], files)
    below = doctor(source, tmp_path / "images")
    (guess,) = below.guesses
    assert (guess.found, guess.tried) == (3, 4)
    assert guess.images == os.fspath(tmp_path / "images" / "coco" / "train2017")
    rows = [record(name, f"coco/train2017/{name}") for name in names]
    source = make_source(tmp_path, rows, files)
    above = doctor(source, tmp_path / "images" / "coco" / "train2017")
    assert above.guesses[0].images == os.fspath(tmp_path / "images")
    assert "3 of 4 missing images" in " ".join(above.ways_out)
    converted = convert(source, above.guesses[0].images, tmp_path / "out")
    assert converted.samples == 3


def test_a_stranger_s_path_is_not_looked_for_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture())
    (tmp_path / "images" / "deep").mkdir(parents=True)
    rows = [record("a", "../../secret.jpg"), record("b", os.fspath(tmp_path / "secret.jpg"))]
    report = examine(tmp_path, rows)
    assert report.guesses == [] and report.repairable == 0


def test_json_is_all_that_stdout_holds_and_has_a_version(tmp_path: Path) -> None:
    source = make_source(tmp_path, BAD)
    done = run_cli("doctor", source, "--images", tmp_path / "images", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 4 and done.stderr == ""
    assert (told["schema_version"], told["form"]["name"], told["wrong"]) == (1, "llava", 9)


HOSTILE = "\x1b[2J\x1b]0;owned\x07 [red]markup[/red] \u202ebidi <script>alert(1)</script>"


def test_hostile_texts_reach_the_terminal_spelled_out(tmp_path: Path) -> None:
    rows: list[Row] = [
        record(HOSTILE, HOSTILE),
        {"id": HOSTILE, HOSTILE: 1},
        text_record("roles", **{"conversations": [{"from": HOSTILE, "value": HOSTILE}]}),
        record("mark", conversations=turns(HOSTILE, HOSTILE)),
    ]
    content = json.dumps(rows, ensure_ascii=False).encode()
    source = make_source(tmp_path, content)
    fixed = tmp_path / "fixed.json"
    done = run_cli("doctor", source, "--images", tmp_path / "images", "--fix", fixed)
    assert done.returncode == 4 and "[red]markup[/red]" in done.stdout
    diff = Path(f"{fixed}.diff").read_text()
    for text in (done.stdout, done.stderr, diff):
        assert not set("\x1b\x07\u202e") & set(text)
    assert "\\u202ebidi" in diff


@pytest.mark.skipif(DATA is None, reason="needs ../shared/data beside the checkout")
def test_llava_instruct_is_found_to_lack_its_images() -> None:
    path = (DATA or Path()) / "llava-instruct-100" / "llava_instruct_100.json"
    report = doctor(path, path.parent)
    assert report.form.name == "llava" and report.form.is_read
    assert [(f.reason, f.records) for f in report.faults] == [("missing_image", 100)]
