"""Bad records: each has its reason and its place, and is handed back unchanged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from convert_help import (
    Converted,
    convert_in,
    make_source,
    reasons_of,
    record,
    run_cli,
    text_record,
    turns,
)

from neva_prep.dataprep.reasons import REJECTIONS

SYSTEM = {"from": "system", "value": "Be brief."}
HUMAN, GPT = turns("Why?", "Because.")


def chat(*conversation: Any) -> dict[str, Any]:
    """A text record with any conversation."""
    return record("bad", ..., conversations=list(conversation))


def two_images(text: str) -> dict[str, Any]:
    return record("bad", ["good.jpg", "good.jpg"], conversations=turns(text, "Two."))


# What is wrong -> reason, record.
BAD: dict[str, tuple[str, Any]] = {
    # The record.
    "record is a list": ("not_an_object", [record("bad")]),
    "record is an empty list": ("not_an_object", []),
    "record is a number": ("not_an_object", 17),
    "record is a string": ("not_an_object", 'id": "}, {"id"'),
    "record is null": ("not_an_object", None),
    "record is true": ("not_an_object", True),
    "record is an empty object": ("missing_conversations", {}),
    "no conversations": ("missing_conversations", record("bad", conversations=...)),
    "id is a list": ("bad_id", record(["a"])),  # type: ignore[arg-type]
    "id is an object": ("bad_id", record({"a": 1})),  # type: ignore[arg-type]
    "id is true": ("bad_id", record(True)),  # type: ignore[arg-type]
    "id holds half a surrogate pair": ("lone_surrogate", record("bad \ud83d")),
    # The conversation.
    "conversations is null": ("bad_conversations", record("bad", conversations=None)),
    "conversations is a string": ("bad_conversations", record("bad", conversations="hello")),
    "conversations is an object": ("bad_conversations", record("bad", conversations={})),
    "empty conversation": ("empty_conversation", chat()),
    "only a system turn": ("empty_conversation", chat(SYSTEM)),
    "only a human turn": ("no_answer", chat(HUMAN)),
    "system and human turn": ("no_answer", chat(SYSTEM, HUMAN)),
    "question at the end": ("no_answer", chat(HUMAN, GPT, HUMAN)),
    "two human turns in a row": ("roles_not_alternating", chat(HUMAN, HUMAN, GPT)),
    "two gpt turns in a row": ("roles_not_alternating", chat(HUMAN, GPT, GPT)),
    "starts with gpt": ("starts_with_answer", chat(GPT, HUMAN, GPT)),
    "starts with gpt after system": ("starts_with_answer", chat(SYSTEM, GPT)),
    "unknown role": ("unknown_role", chat({**HUMAN, "from": "user"}, GPT)),
    "role in capitals": ("unknown_role", chat({**HUMAN, "from": "Human"}, GPT)),
    "unknown role at the end": ("unknown_role", chat(HUMAN, GPT, {**HUMAN, "from": "tool"})),
    "system turn in the middle": ("unknown_role", chat(HUMAN, SYSTEM, GPT)),
    "two system turns": ("unknown_role", chat(SYSTEM, SYSTEM, HUMAN, GPT)),
    "role is a number": ("unknown_role", chat({**HUMAN, "from": 1}, GPT)),
    "role is null": ("unknown_role", chat({**HUMAN, "from": None}, GPT)),
    "turn is a string": ("bad_turn", chat("Why?", GPT)),
    "turn is null": ("bad_turn", chat(HUMAN, None)),
    "turn is a list": ("bad_turn", chat(["human", "Why?"], GPT)),
    "missing from": ("missing_role", chat({"value": "Why?"}, GPT)),
    "role under another name": ("missing_role", chat({"role": "user", "content": "Why?"}, GPT)),
    "missing value": ("missing_value", chat({"from": "human"}, GPT)),
    "value is a number": ("bad_value", chat({**HUMAN, "value": 5}, GPT)),
    "value is null": ("bad_value", chat(HUMAN, {**GPT, "value": None})),
    "value is a list": ("bad_value", chat({**HUMAN, "value": ["Why?"]}, GPT)),
    "empty value": ("empty_value", chat(HUMAN, {**GPT, "value": ""})),
    "whitespace value": ("empty_value", chat({**HUMAN, "value": " \n\t\u3000"}, GPT)),
    "empty system turn": ("empty_value", chat({**SYSTEM, "value": ""}, HUMAN, GPT)),
    "NUL in text": ("nul_in_text", chat({**HUMAN, "value": "Why\0?"}, GPT)),
    "high half of a surrogate pair in text": ("lone_surrogate", text_record("bad", "\ud83d", "x")),
    "low half of a surrogate pair in text": ("lone_surrogate", text_record("bad", "a", "b\ude00")),
    # The images against the text.
    "image is a number": ("bad_image_field", record("bad", 7)),
    "image is false": ("bad_image_field", record("bad", False)),
    "image is an object": ("bad_image_field", record("bad", {"path": "good.jpg"})),
    "image is a list with a number": ("bad_image_field", record("bad", ["good.jpg", 7])),
    "image is a list with null": ("bad_image_field", record("bad", [None])),
    "image is a nested list": ("bad_image_field", record("bad", [["good.jpg"]])),
    "images is a number": ("bad_image_field", record("bad", ..., images=7)),
    "image is an empty string": ("bad_path", record("bad", "")),
    "image is white space": ("bad_path", record("bad", "  ")),
    "image path with NUL": ("bad_path", record("bad", "good.jpg\0.png")),
    "image path with half a surrogate pair": ("bad_path", record("bad", "\ud83d.jpg")),
    "image path with a byte in disguise": ("bad_path", record("bad", "\udcff.jpg")),
    "both image and images": ("field_conflict", record("bad", images=["good.jpg"])),
    "placeholder missing": ("placeholder_missing", record("bad", conversations=[HUMAN, GPT])),
    "placeholder without an image": ("placeholder_mismatch", record("bad", ...)),
    "placeholder and image is null": ("placeholder_mismatch", record("bad", None)),
    "placeholder and image is an empty list": ("placeholder_mismatch", record("bad", [])),
    "fewer placeholders than images": ("placeholder_mismatch", two_images("<image> Well?")),
    "more placeholders than images": ("placeholder_mismatch", two_images("<image>" * 3)),
    "placeholder only in the answer": (
        "placeholder_missing",
        record("bad", conversations=turns("Draw.", "<image>")),
    ),
    "placeholder only in the system turn": (
        "placeholder_missing",
        record("bad", conversations=[{**SYSTEM, "value": "<image>"}, HUMAN, GPT]),
    ),
}

# What is wrong -> reason, record as bytes that json.dumps never writes.
BAD_TEXT: dict[str, tuple[str, bytes]] = {
    "NaN": (
        "invalid_json",
        b'{"id": "bad", "score": NaN, "conversations": []}',
    ),
    "minus infinity": (
        "invalid_json",
        b'{"id": "bad", "score": -Infinity, "conversations": []}',
    ),
    "invalid UTF-8 in text": (
        "invalid_utf8",
        b'{"id": "bad", "conversations": [{"from": "human", "value": "caf\xe9"}]}',
    ),
    "invalid UTF-8 in an unknown field": (
        "invalid_utf8",
        b'{"id": "bad", "note": "\xff", "conversations": [{"from": "human", "value": "a"}, '
        b'{"from": "gpt", "value": "b"}]}',
    ),
    "surrogate written as UTF-8": (
        "invalid_utf8",
        b'{"id": "bad", "conversations": [{"from": "human", "value": "\xed\xa0\xbd"}]}',
    ),
}

# Lines of JSONL that are no JSON at all; in an array they break the file.
BAD_LINES: dict[str, tuple[str, bytes]] = {
    "line cut off": ("invalid_json", b'{"id": "bad", "conversations": [{"from": "hum'),
    "line without its begin": ("invalid_json", b'an", "value": "Why?"}]}'),
    "two records on a line": ("invalid_json", b'{"id": "bad"} {"id": "worse"}'),
    "single quotes": ("invalid_json", b"{'id': 'bad', 'conversations': []}"),
    "trailing comma": ("invalid_json", b'{"id": "bad", "conversations": [],}'),
    "bare control character": ("invalid_json", b'{"id": "bad\x01", "conversations": []}'),
    "leading zero": ("invalid_json", b'{"id": 007, "conversations": []}'),
    "nested too deeply": ("invalid_json", b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "words": ("invalid_json", b"no JSON here"),
}

GOOD = json.dumps(record("good")).encode()


def one_line(records: dict[str, tuple[str, Any]]) -> dict[str, tuple[str, bytes]]:
    return {what: (reason, json.dumps(row).encode()) for what, (reason, row) in records.items()}


def pretty(row: bytes) -> bytes:
    return json.dumps(json.loads(row), indent=2).encode()


IN_ARRAYS = one_line(BAD) | BAD_TEXT
EVERYWHERE = IN_ARRAYS | BAD_LINES
PRETTY = {what: (reason, pretty(row)) for what, (reason, row) in one_line(BAD).items()}
KINDS = {"jsonl": EVERYWHERE, "crlf": EVERYWHERE, "array": IN_ARRAYS, "minified": IN_ARRAYS}
KINDS |= {"pretty": PRETTY}
CASES = [(layout, what) for layout, kinds in KINDS.items() for what in kinds]


def lay_out(layout: str) -> bytes:
    """A source of every bad kind, each after a good record."""
    records = [row for _, bad in KINDS[layout].values() for row in (GOOD, bad)]
    return {
        "jsonl": b"\n".join([b"", *records, b"", b" \t", b""]),
        "crlf": b"\r\n".join([*records, b"", b""]),
        "array": b" [\n" + b" ,\n ".join(records) + b"\n]\n",
        "minified": b"[" + b",".join(records) + b"]",
        "pretty": b"[\n  " + b",\n  ".join(records) + b"\n]",
    }[layout]


@dataclass(frozen=True)
class Layout:
    """A source laid out in one way, and what became of it."""

    source: bytes
    converted: Converted
    rows: list[dict[str, Any]]
    quarantine: bytes


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Layout]:
    made = {}
    for layout in KINDS:
        converted = convert_in(tmp_path_factory.mktemp(layout), lay_out(layout))
        quarantine = (converted.out / "quarantine.jsonl").read_bytes()
        made[layout] = Layout(lay_out(layout), converted, converted.rows, quarantine)
    return made


@pytest.mark.parametrize("layout", KINDS)
def test_every_record_is_a_sample_or_a_quarantine_row(
    layouts: dict[str, Layout], layout: str
) -> None:
    converted, kinds = layouts[layout].converted, len(KINDS[layout])
    assert kinds >= 25
    assert (converted.report.samples, converted.report.rejected) == (kinds, kinds)
    assert list(converted.samples) == [f"{2 * n:09d}" for n in range(kinds)]
    assert [row["index"] for row in layouts[layout].rows] == [2 * n + 1 for n in range(kinds)]


@pytest.mark.parametrize(("layout", "what"), CASES, ids=lambda value: value)
def test_bad_record_has_its_reason_its_place_and_itself_in_quarantine(
    layouts: dict[str, Layout], layout: str, what: str
) -> None:
    source, number = layouts[layout].source, list(KINDS[layout]).index(what)
    row, (reason, raw) = layouts[layout].rows[number], KINDS[layout][what]
    assert row["reason"] == reason
    assert row["fix"] == REJECTIONS[reason] and row["message"].endswith(row["fix"])
    assert row["source"] == "source.json"
    assert f"source.json: record {row['index']}" in row["message"]
    assert source[row["byte"] : row["byte"] + len(raw)] == raw
    assert row["line"] == source[: row["byte"]].count(b"\n") + 1
    if "record" in row:
        assert json.dumps(row["record"]) == json.dumps(json.loads(raw))
        assert b"\n" in raw or raw in layouts[layout].quarantine
    else:
        assert row["record_text"] == raw.decode("utf-8", "backslashreplace")


def test_one_reason_is_for_one_kind_of_fault_and_all_are_in_the_report(
    layouts: dict[str, Layout],
) -> None:
    report = layouts["jsonl"].converted.report
    expected: dict[str, int] = {}
    for reason, _ in EVERYWHERE.values():
        expected[reason] = expected.get(reason, 0) + 1
    assert dict(report.rejections) == expected
    assert all(report.examples[reason] for reason in expected)


def test_pretty_printed_record_keeps_its_numbers_in_quarantine(tmp_path: Path) -> None:
    raw = b'{\n  "id": "bad",\r\n  "scores": [1.10, 1e400, 1E5, 0.1234567890123456789, -0],\n'
    raw += b'  "\xc3\xa9": "\\u00e9 \xc3\xa9",\n  "conversations": []\n}'
    converted = convert_in(tmp_path, b"[\n" + GOOD + b",\n" + raw + b"]")
    (line,) = (converted.out / "quarantine.jsonl").read_bytes().splitlines()
    unfolded = raw.replace(b"\n", b" ").replace(b"\r", b" ")
    assert unfolded in line


# Records that are fine.


def test_text_only_records_convert_whatever_says_that_there_is_no_image(tmp_path: Path) -> None:
    rows = [
        text_record("no field"),
        text_record("null", image=None),
        text_record("empty list", image=[]),
        text_record("images null", images=None),
        text_record("images empty", images=[]),
    ]
    converted = convert_in(tmp_path, rows)
    assert converted.report.rejected == 0 and not converted.report.repairs
    assert [row["images"] for row in converted.records.values()] == [[]] * 5


def test_image_may_be_a_string_or_a_list_under_either_name(tmp_path: Path) -> None:
    rows = [
        record("string"),
        record("list", ["good.jpg"]),
        record("images", ..., images=["good.jpg"]),
        record("images string", ..., images="good.jpg"),
        record("other name is null", images=None),
        record("two", ["good.jpg", "good.jpg"], conversations=turns("<image> <image>", "Twins.")),
    ]
    converted = convert_in(tmp_path, rows)
    assert converted.rows == []
    names = [[entry["name"] for entry in row["images"]] for row in converted.records.values()]
    assert names == [["000.jpg"]] * 5 + [["000.jpg", "001.jpg"]]


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["plain", "after system"])
def test_placeholder_is_inserted_before_the_first_question_only_on_demand(
    tmp_path: Path, system: list[Any]
) -> None:
    row = record("a", ["good.jpg"] * 2, conversations=[*system, HUMAN, GPT, *turns("More?", "No.")])
    converted = convert_in(tmp_path, [row], placeholder="insert")
    (stored,) = converted.records.values()
    row["conversations"][len(system)] = {**HUMAN, "value": "<image>\n<image>\nWhy?"}
    assert stored["conversations"] == row["conversations"]
    assert converted.report.repairs == {"placeholder_inserted": 1}


def test_placeholder_is_not_inserted_where_some_are_there(tmp_path: Path) -> None:
    rows = [two_images("<image> Well?"), record("none", ...)]
    converted = convert_in(tmp_path, [record("good"), *rows], placeholder="insert")
    assert reasons_of(converted) == dict.fromkeys(("bad", "none"), "placeholder_mismatch")
    assert not converted.report.repairs


def test_placeholder_in_an_answer_is_text_with_a_warning(tmp_path: Path) -> None:
    talk = turns("<image> What tag is this?", "It is <image>, and <image>.")
    converted = convert_in(tmp_path, [record("a", conversations=talk), record("b")])
    assert converted.records["000000000"]["conversations"] == talk
    assert converted.report.warnings["placeholder_in_answer"] == 1


def test_missing_id_becomes_the_key_and_is_reported(tmp_path: Path) -> None:
    rows = [record("a"), record(..., note=1), record(None, note=2)]  # type: ignore[arg-type]
    converted = convert_in(tmp_path, rows)
    assert [row["id"] for row in converted.records.values()] == ["a", "000000001", "000000002"]
    assert converted.report.repairs == {"id_added": 2}
    assert next(iter(converted.records["000000001"])) == "id"


def test_ids_may_be_numbers_and_empty(tmp_path: Path) -> None:
    ids: list[Any] = [7, -1.5, 0, "", 12345678901234567890123, "\u00e9", "a/b.c"]
    converted = convert_in(tmp_path, [record(name) for name in ids])
    assert [row["id"] for row in converted.records.values()] == ids
    assert converted.rows == [] and not converted.report.repairs


def test_duplicate_ids_and_repeated_images_are_kept_and_reported(tmp_path: Path) -> None:
    rows = [record("a"), record("b"), record("a", "other.jpg"), text_record("a"), record("7")]
    rows.append(record(7))  # type: ignore[arg-type]
    converted = convert_in(tmp_path, rows, {"other.jpg": b"\xff\xd8no image"})
    assert converted.report.warnings == {"duplicate_id": 3, "repeated_image": 3}
    assert "records 0, 2, 3" in converted.report.warning_examples["duplicate_id"]
    assert converted.report.samples == 5


def test_half_of_a_surrogate_pair_in_an_unknown_field_passes_as_it_is(tmp_path: Path) -> None:
    rows = [record("a", note="half \ud83d"), record("b", **{"\ud83d": [1]})]
    rows.append(text_record(..., note="\ude00 half"))  # type: ignore[arg-type]
    converted = convert_in(tmp_path, rows)
    stored = list(converted.records.values())
    assert [row.pop("images") for row in stored][2] == []
    assert stored == [*rows[:2], {"id": "000000002", **rows[2]}]
    whole = convert_in(tmp_path / "whole", [text_record("a", "\U0001f600", "Smile \U0001f600")])
    assert whole.rows == []


# JSON members lose no field.

RICH = {
    "zeta": {"b": [1, {"c": None}], "a": {"image": "x"}},
    "text": 'quotes " and \\ and </script> \u2028 \x7f é 😀 \u00e9 "}, {"id"',
    "empty": {"": "", "list": [], "object": {}},
    "truth": [True, False, None],
    "alpha": "last in the alphabet, not in the record",
}
RICH_TEXT = (
    b'"numbers": [1.10, 1E5, 1e400, -0, -0.0, 0.12345678901234567890123, 12345678901234567890123],'
    b' "escapes": "\\u00e9\\/\\ud83d\\ude00", "raw": "\xc3\xa9 \xf0\x9f\x98\x80"'
)


def member_of(tmp_path: Path, row: bytes, **options: Any) -> bytes:
    converted = convert_in(tmp_path, b"[" + row + b"]", **options)
    assert converted.rows == []
    return converted.samples["000000000"]["json"]


def rich_row(**fields: Any) -> bytes:
    text = json.dumps(record("a", **{**RICH, **fields}), ensure_ascii=False).encode()
    return text[:-1] + b", " + RICH_TEXT + b' , "last": {"x":1} \n }'


IMAGES_LIST = b'"images": [{"name":"000.jpg","source":"good.jpg","width":32,"height":24}]'


def test_member_is_the_record_byte_for_byte_with_the_list_of_images_at_its_end(
    tmp_path: Path,
) -> None:
    row = rich_row()
    expected = row.removesuffix(b" \n }") + b", " + IMAGES_LIST + b"}"
    assert member_of(tmp_path, row) == expected


REBUILDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "images field": ({"image": ..., "images": "good.jpg"}, {}),
    "images null": ({"images": None}, {}),
    "inserted placeholder": ({"conversations": [HUMAN, GPT]}, {"placeholder": "insert"}),
    "id missing": ({"id": ...}, {}),
    "id null": ({"id": None}, {}),
}


@pytest.mark.parametrize("what", REBUILDS)
def test_rebuilt_member_keeps_numbers_escapes_nested_fields_and_key_order(
    tmp_path: Path, what: str
) -> None:
    fields, options = REBUILDS[what]
    row = rich_row(**fields)
    member = member_of(tmp_path, row, **options)
    assert RICH_TEXT in member
    stored, given = json.loads(member), json.loads(row)
    entry = {"name": "000.jpg", "source": "good.jpg", "width": 32, "height": 24}
    assert stored["images"] == [entry]
    expected = {**given, "images": [entry]}
    if "id" in what:
        expected = {"id": "000000000", **{k: v for k, v in expected.items() if k != "id"}}
    if "placeholder" in what:
        expected["conversations"][0]["value"] = "<image>\nWhy?"
    assert json.dumps(stored) == json.dumps(expected)


def test_extra_fields_of_turns_stay_where_a_placeholder_is_inserted(tmp_path: Path) -> None:
    first = {"weight": 0.50, "from": "human", "value": "Wh\u00e9?", "tags": [{"a": 1}]}
    row = record("a", conversations=[first, {**GPT, "score": 1e3}])
    member = member_of(tmp_path, json.dumps(row).encode(), placeholder="insert")
    first["value"] = "<image>\nWh\u00e9?"
    assert json.dumps(json.loads(member)["conversations"]) == json.dumps(row["conversations"])


# The whole command.


def test_quarantined_records_give_exit_code_4_and_a_report_with_reasons(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("a"), chat(HUMAN), record("b\x1b[31m", "gone.jpg")])
    done = run_cli("convert", source, "--images", tmp_path / "images", "--out", tmp_path / "out")
    assert done.returncode == 4
    assert "no_answer" in done.stdout and "missing_image" in done.stdout
    assert "--retry" in done.stderr and "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    quiet = run_cli(
        "convert", source, "--images", tmp_path / "images", "--out", tmp_path / "2", "--json"
    )
    assert quiet.returncode == 4 and quiet.stderr == ""
    report = json.loads(quiet.stdout)
    assert report["schema_version"] == 1
    assert (report["records"], report["samples"], report["rejected"]) == (3, 1, 2)
    assert report["rejections"] == {"no_answer": 1, "missing_image": 1}


def test_on_error_fail_stops_at_the_first_bad_record_and_names_it(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("a"), chat(HUMAN), record("b", "gone.jpg")])
    out = tmp_path / "out"
    done = run_cli(
        "convert", source, "--images", tmp_path / "images", "--out", out, "--on-error", "fail"
    )
    assert done.returncode == 3
    assert "record 1 (id 'bad')" in done.stderr and "end with a gpt turn" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / ".nv-meta").exists() and not list(out.glob("*.tar"))
