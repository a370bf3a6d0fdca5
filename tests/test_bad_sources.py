"""Sources that are broken as a whole, and odd ones that are fine: the message names the byte."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from convert_help import convert_in, make_source, record, run_cli, text_record

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.errors import RecordError

GOOD = json.dumps(record("a")).encode()
DEEP = b'{"id": "deep", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
# What -> content, what the message says, and the byte that it names.
BROKEN: dict[str, tuple[bytes, str, int | None]] = {
    "empty file": (b"", "the file is empty", None),
    "only white space": (b" \n\t\r\n", "holds only white space", None),
    "only a byte order mark": (b"\xef\xbb\xbf", "holds only white space", None),
    "empty list": (b"[]", "the list is empty; there is nothing to convert", None),
    "empty list with space": (b" [\n ] \n", "the list is empty", None),
    "number": (b"12", "begins with b'1'; give a JSON array", 0),
    "string": (b' "text"', "begins with b'\"'", 1),
    "null": (b"null", "begins with b'n'", 0),
    "words": (b"it was a dark night\nand so on\n", "begins with b'i'", 0),
    "object": (b'{"data": [1]}', "is an object with the keys data, not a list", 0),
    "object of records": (b'{"a": ' + GOOD + b"}", "jq '[to_entries[] | {id: .key} + .value]'", 0),
    "empty object": (b" {}", "is an object", 1),
    "pretty object": (b'{\n "info": 1,\n "images": []\n}', "keys info, images, not a list", 0),
    "UTF-16": ("[{}]".encode("utf-16"), "is UTF-16; save it as UTF-8", None),
    "UTF-16 big-endian": (b"\xfe\xff\0[\0]", "is UTF-16", None),
    "UTF-16 without its mark": ("[{}]".encode("utf-16-le"), "", 1),
    "cut off in a text": (b"[" + GOOD[:9], "cut off inside a text that begins there", 8),
    "cut off after a comma": (b"[" + GOOD + b", ", "is cut off", len(GOOD) + 3),
    "cut off after a record": (b"[" + GOOD, "a ',' or ']' must follow", len(GOOD) + 1),
    "no comma": (b"[" + GOOD + b" " + GOOD + b"]", "a ',' or ']' must follow", len(GOOD) + 2),
    "two commas": (b"[" + GOOD + b",, " + GOOD + b"]", "record 1 is broken", len(GOOD) + 2),
    "comma at the end": (b"[" + GOOD + b",]", "record 1 is broken", len(GOOD) + 2),
    "closed by a brace": (b"[" + GOOD + b"}", "a ',' or ']' must follow", len(GOOD) + 1),
    "second array": (b"[" + GOOD + b"][]", "something follows the end", len(GOOD) + 2),
    "garbage at the end": (b"[" + GOOD + b"]\n;", "something follows the end", len(GOOD) + 3),
    "zeros at the end": (b"[" + GOOD + b"]\0\0", "something follows the end", len(GOOD) + 2),
    "garbage inside": (b'[{"a": x}, ' + GOOD + b"]", "record 0 is broken", 7),
    "single quotes": (b"[{'id': 1}]", "record 0 is broken", 2),
    "nested too deeply": (b"[" + GOOD + b", " + DEEP + b"]", "too deeply", len(GOOD) + 3),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_file_is_refused_with_its_byte_and_leaves_no_dataset(
    tmp_path: Path, what: str
) -> None:
    content, says, byte = BROKEN[what]
    with pytest.raises(RecordError) as caught:
        convert_in(tmp_path, content)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert message.startswith(os.fspath(tmp_path / "source.json")) and says in message
    place = re.search(r"byte (\d+)", message)
    assert (int(place[1]) if place else None) == byte, message
    assert len(message) < 500
    assert not list(tmp_path.glob("out/*.tar")) and not (tmp_path / "out" / ".nv-meta").exists()


def test_missing_source_folder_and_pipe_are_refused_at_once(tmp_path: Path) -> None:
    make_source(tmp_path, [record("a")])
    os.mkfifo(tmp_path / "pipe")
    says = {
        "gone.json": "No such file",
        "images": "give the file that has the records",
        "pipe": "no regular file",
    }
    for name, what in says.items():
        done = run_cli("convert", tmp_path / name, "--out", tmp_path / "out", timeout=30)
        assert done.returncode == 3, done.stderr
        assert what in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


def test_missing_image_folder_is_a_usage_error(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("a")])
    done = run_cli("convert", source, "--images", tmp_path / "gone", "--out", tmp_path / "out")
    assert done.returncode == 2 and "no such folder" in done.stderr


# Forms that are fine.


def test_byte_order_mark_is_skipped_with_a_warning(tmp_path: Path) -> None:
    for name, content in (("array", b"[" + GOOD + b"]"), ("lines", GOOD + b"\n" + GOOD)):
        converted = convert_in(tmp_path / name, b"\xef\xbb\xbf" + content)
        assert converted.rows == [] and converted.report.warnings["byte_order_mark"] == 1


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n"])
def test_lines_may_end_as_they_like_and_blank_ones_do_not_count(tmp_path: Path, end: bytes) -> None:
    rows = [json.dumps(text_record(f"{n}")).encode() for n in range(3)]
    converted = convert_in(tmp_path, b"\r\n\n".join(rows) + end)
    assert [row["id"] for row in converted.records.values()] == ["0", "1", "2"]


def test_a_single_record_is_a_source_of_one_line_whatever_its_layout(tmp_path: Path) -> None:
    for number, indent in enumerate((None, 2)):
        content = json.dumps(record("a"), indent=indent).encode()
        assert convert_in(tmp_path / str(number), content).report.samples == 1


def test_broken_lines_cost_only_themselves(tmp_path: Path) -> None:
    rows = [GOOD, GOOD[:40], GOOD, DEEP, b'"}]}', GOOD]
    converted = convert_in(tmp_path, b"\n".join(rows))
    assert list(converted.samples) == ["000000000", "000000002", "000000005"]
    assert [(row["index"], row["line"]) for row in converted.rows] == [(1, 2), (3, 4), (4, 5)]
    assert {row["reason"] for row in converted.rows} == {"invalid_json"}


def test_array_of_arrays_is_wholly_rejected_record_by_record(tmp_path: Path) -> None:
    converted = convert_in(tmp_path, [[record("a")], [record("b")]])
    assert converted.report.rejections == {"not_an_object": 2}
    assert not (converted.out / ".nv-meta").exists()


def test_the_same_records_give_the_same_samples_in_every_layout(tmp_path: Path) -> None:
    rows = [record("a", n=1.0), record("b", text="}, {"), text_record("c"), record("d", "gone.jpg")]
    lines = [json.dumps(row).encode() for row in rows]
    layouts = [
        b"[" + b",".join(lines) + b"]",
        b"\n".join(lines),
        json.dumps(rows, indent=2).encode(),
    ]
    stored = []
    for number, content in enumerate(layouts):
        converted = convert_in(tmp_path / str(number), content)
        stored.append((converted.records, [row["record"] for row in converted.rows]))
    assert stored[0] == stored[1] == stored[2]


def test_a_dataset_given_as_source_is_named_as_one(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "s.json").write_text(json.dumps([{"id": "1", "conversations": turns}]))
    convert(tmp_path / "s.json", tmp_path, tmp_path / "out", ConvertOptions())
    with pytest.raises(RecordError, match="is a dataset already; give the source"):
        convert(tmp_path / "out", tmp_path, tmp_path / "again", ConvertOptions())
