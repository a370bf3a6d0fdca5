"""`--filter`: which records pass, what a wrong expression is told, and what can never happen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from convert_help import (
    convert_in,
    files_of,
    make_source,
    read_samples,
    reasons_of,
    record,
    run_cli,
    text_record,
    turns,
)
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.expression_values import UNKNOWN
from neva_prep.dataprep.filter import Fields, parse_filter
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.readers.llava import read_llava
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError, RecordError

IMAGES = {"wide.jpg": picture(300, 200), "tall.png": picture(240, 400, "PNG")}
ROWS = [
    record("wide", "wide.jpg", source="gqa", score=1),
    record("tall", "tall.png", source="ocr", score=2.5),
    record("both", ["wide.jpg", "tall.png"], conversations=turns("<image><image>Same?", "No.")),
    text_record("text", "Tell me a story.", "Once.", "More?", "No.", source="chat", score="high"),
]


def holds(expression: str, row: dict[str, Any] | None = None, *sizes: tuple[int, int]) -> Any:
    raw = json.dumps(row or ROWS[3]).encode()
    fields = Fields(raw, read_llava(raw), lambda: sizes)
    found = parse_filter(expression).of(fields)
    return None if found is UNKNOWN else found


def kept(folder: Path, *expressions: str) -> set[Any]:
    converted = convert_in(folder, ROWS, IMAGES, filter=expressions)
    return {row["id"] for row in converted.records.values()}


def test_records_pass_by_their_fields_and_their_smallest_image(tmp_path: Path) -> None:
    cases: dict[str, set[str]] = {
        "width >= 224 and height >= 224": {"tall"},
        "width >= 224 or images == 0": {"wide", "tall", "both", "text"},
        'source != "ocr"': {"wide", "both", "text"},
        'source == "gqa" or source == "chat"': {"wide", "text"},
        'source in ["gqa", "chat"]': {"wide", "text"},
        'not source in ("gqa", "ocr")': {"both", "text"},
        "turns <= 2 and len(text) < 40": {"wide", "tall", "both"},
        'images == 2 or "story" in questions': {"both", "text"},
        'startswith(answers, "Once") and lower(answers) == "once.\\nno."': {"text"},
        "score * 2 > 4": {"tall"},
        "width / height > 1.4": {"wide"},
        "1 < score <= 2.5": {"tall"},
    }
    for number, (expression, names) in enumerate(cases.items()):
        assert kept(tmp_path / str(number), expression) == names, expression


def test_what_is_left_out_is_counted_by_the_expression_it_did_not_pass(tmp_path: Path) -> None:
    rows = [*ROWS, record("lost", "lost.jpg", source="gqa"), record("bad", conversations=[])]
    one, two = 'source != "ocr"', "width >= 224"
    converted = convert_in(tmp_path, rows, IMAGES, filter=(one, two))
    report = converted.report
    assert report.filters == {one: 1, two: 1} and report.filtered == 2
    # What is wrong stays an error, not a choice.
    assert reasons_of(converted) == {"lost": "missing_image", "bad": "empty_conversation"}
    assert report.warnings["filter_unknown"] == 1
    assert report.warning_examples["filter_unknown"] == ["record 3"]
    assert verify(converted.out).is_whole
    # Keys are places in the source, whoever is left out before.
    assert sorted(converted.samples) == ["000000000", "000000002"]


def test_shards_are_cut_from_what_is_left(tmp_path: Path) -> None:
    rows = [text_record(f"{n}", number=n) for n in range(40)]
    options: dict[str, Any] = {"shard_count": 5, "shuffle": 3, "split": {"train": 0.7, "val": 0.3}}
    converted = convert_in(tmp_path / "all", rows, filter=("number % 2 == 1",), **options)
    odd = convert_in(tmp_path / "odd", rows[1::2], **options)
    assert converted.report.shards == odd.report.shards == 4 or converted.report.shards == 5
    assert {row["number"] for row in converted.records.values()} == set(range(1, 40, 2))
    assert converted.report.splits == odd.report.splits


def test_workers_change_no_byte(tmp_path: Path) -> None:
    rows = [record(f"{n}", "wide.jpg" if n % 3 else "tall.png", n=n) for n in range(2100)]
    chosen = ("height < 300 or n % 2 == 0",)
    one = convert_in(tmp_path, rows, IMAGES, filter=chosen, shard_count=700)
    two = tmp_path / "two"
    options = ConvertOptions(filter=chosen, shard_count=700, workers=2)
    convert(tmp_path / "source.json", tmp_path / "images", two, options)
    differing = {n for n, c in files_of(one.out).items() if files_of(two)[n] != c}
    assert differing <= {".nv-meta/index.uuid", ".nv-meta/index.sqlite"}
    assert one.report.filtered == 350


@pytest.mark.parametrize(
    ("expression", "place", "what"),
    [
        ("width >= 224 nd height", 14, "invalid syntax"),
        ("width >= ", 9, "invalid syntax"),
        ("é == __import__('os').system('x')", 6, "no such function"),
        ("().__class__.__bases__[0]", None, None),
        ("len(text) ** 9 > 1", 1, "only + - * / // and %"),
        ("[x for x in text]", 1, "'for' cannot be used here"),
        ("(lambda: 1)()", 1, "no such function"),
        ("text if turns else id", 1, "'if' cannot be used here"),
        ("f'{text}' == id", 1, "an f'...' cannot be used here"),
        ("len == 3", 1, "len is a function: write len(...)"),
        ("len(text, id) > 1", 1, "len takes 1 values"),
        ("matches(text, '(a+)+$')", 1, "no such function; there are abs, count,"),
        ("text.count('a') > 1", 1, "no such function"),
        ("a[b] == 1", 3, "only a number or a text may stand in [ ]"),
        ("turns == 99999999999999999999", 10, "the number is too large"),
        ("(y := 3) > 2", 2, "':=' cannot be used here"),
        ("b'x' == id", 1, "b'x' is no text or number"),
    ],
)
def test_a_wrong_expression_is_told_where(
    expression: str, place: int | None, what: str | None
) -> None:
    if what is None:  # Harmless: a record has no such fields.
        assert holds(expression) in (None, False)
        return
    with pytest.raises(ConfigError) as error:
        ConvertOptions(filter=(expression,))
    said = str(error.value).split("\n")
    assert f"character {place}: " in said[0] and what in said[0], said
    assert said[2].index("^") == (place or 0) - 1 + 2


@pytest.mark.parametrize(
    "expression",
    ["not " * 800 + "1", "(" * 900 + "1" + ")" * 900, "-" * 1500 + "1", "1" * 3000, "a\nb", "\0"],
)
def test_an_expression_without_bounds_is_refused(expression: str) -> None:
    with pytest.raises(ConfigError):
        parse_filter(expression)


def test_no_expression_takes_long_whatever_the_record() -> None:
    row = text_record("x", "a" * 1_000_000, "b", n=10**18, big=int("9" * 4000), deep=[[[]]] * 9)
    start = time.process_time()
    for expression in [
        " * ".join(["n"] * 45) + " > 1",
        " * ".join(["big"] * 45) + " > 1",
        "text * n == 1",
        "'%1000000000d' % n == text",
        "('a' * 30 + 'b') in text",
        "count(text, 'aaaaaaaa') > 3",
        "deep == deep",
    ]:
        holds(expression, row)
    assert time.process_time() - start < 2
    # Numbers stay small: what grows beyond 64 bits is not reckoned with any further.
    assert holds("n * n > 1", row) and holds("n * n * n > 1", row) is None
    assert holds("big > n", row) and holds("big + 1 > n", row) is None


def test_what_cannot_be_said_is_neither_true_nor_false() -> None:
    assert holds("width > 1") is None and holds("not width > 1") is None
    assert holds("width > 1 or turns == 4") is True and holds("turns == 4 or width > 1") is True
    assert holds("width > 1 and turns == 5") is False and holds("width > 1 and turns == 4") is None
    assert holds("score > 1") is None and holds("score + 1 == 2") is None
    assert holds("absent == None") is True and holds("absent is not None") is False
    assert holds("absent > 1") is None and holds("len(absent) > 1") is None
    assert holds("'a' in absent") is None and holds("1 / (turns - 4) > 1") is None
    assert holds("1 < width < turns") is None and holds("9 < turns < width") is False


def test_fields_are_reached_in_depth() -> None:
    row = text_record("x", meta={"licence": ["cc", {"by": 4}]}, width=7, **{"a b": 3})
    assert holds("meta.licence[1].by == 4 and meta['licence'][-2] == 'cc'", row)
    assert holds("record.width == 7 and record['a b'] == 3", row, (640, 480))
    assert holds("width == 320 and height == 480", row, (640, 480), (320, 900))
    assert holds("meta.licence[9] == None and meta.by.x == None", row)
    assert holds("min(turns, 1) + max([3, 4]) == 5 and words(questions) == 1", row)
    assert holds("meta.keys == None", row)  # A field of that name, not Python's method.


def test_half_a_surrogate_pair_and_long_numbers_elsewhere_do_not_matter() -> None:
    raw = json.dumps(text_record("x", n=5, odd="\ud83d", long=10**400)).encode()
    fields = Fields(raw, read_llava(raw), tuple)
    assert parse_filter("n == 5 and long > 1e300").of(fields) is True


def test_a_name_that_stands_for_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no record has a field 'sorce' \(is source meant\?\)"):
        convert_in(tmp_path, ROWS, IMAGES, filter=('sorce != "ocr"',))
    assert not (tmp_path / "out").exists()


def test_nothing_left_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"all 4 records were left out \('turns > 9' 4\)"):
        convert_in(tmp_path, ROWS, IMAGES, filter=("turns > 9",))
    assert not (tmp_path / "out").exists()


def test_a_retry_holds_the_fixed_records_against_the_filter(tmp_path: Path) -> None:
    rows = [*ROWS, record("small", "small.jpg"), record("large", "large.jpg")]
    converted = convert_in(tmp_path, rows, IMAGES, filter=("width >= 224 or images == 0",))
    assert converted.report.rejected == 2
    (tmp_path / "images" / "small.jpg").write_bytes(picture(20, 20))
    (tmp_path / "images" / "large.jpg").write_bytes(picture(400, 400))
    report = retry(converted.out / "quarantine.jsonl")
    assert (report.samples, report.rejected, report.filtered) == (5, 0, 1)
    assert report.records == 6 and report.filters == {"width >= 224 or images == 0": 1}
    assert "000000005" in read_samples(converted.out)


def test_the_command_takes_several_expressions(tmp_path: Path) -> None:
    convert_in(tmp_path, ROWS, IMAGES)
    begin = ("convert", tmp_path / "source.json", "--images", tmp_path / "images")
    chosen = ("--filter", "turns <= 2", "--filter", "source == 'ocr'")
    done = run_cli(*begin, "--out", tmp_path / "few", *chosen, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["samples"]) == (0, 1)
    assert report["filters"] == {"turns <= 2": 1, "source == 'ocr'": 2}
    shown = run_cli(*begin, "--dry-run", *chosen).stdout
    assert "left out" in shown and "source == 'ocr'" in shown
    done = run_cli(*begin, "--out", tmp_path / "none", "--filter", "turns <== 2")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[1] == "  turns <== 2" and lines[2].index("^") == lines[1].index("= 2")


def test_where_all_records_are_rejected_no_field_is_said_to_be_missing(tmp_path: Path) -> None:
    # Nothing was asked of any record, so that nothing is known of their fields.
    unmarked = [record(f"{n}", conversations=turns("Why?", "So."), score=n) for n in range(3)]
    converted = convert_in(tmp_path, unmarked, filter=["score > 0"])
    assert set(reasons_of(converted).values()) == {"placeholder_missing"}
    assert (converted.report.rejected, converted.report.filtered) == (3, 0)


def test_left_out_records_are_not_called_rejected(tmp_path: Path) -> None:
    rows = [record("a", score=1), record("b", "gone.jpg", score=2)]
    source, out = make_source(tmp_path, rows), tmp_path / "out"
    given = ("--images", tmp_path / "images", "--filter", "width > 0 and score > 1")
    done = run_cli("convert", source, "--out", out, *given)
    assert done.returncode == 3
    assert "neva-prep: 1 records were rejected (missing_image 1), and 1 are left out" in done.stderr
    assert "every record was rejected or left out" in done.stdout
    (tmp_path / "images" / "gone.jpg").write_bytes(picture())
    again = run_cli("convert", "--retry", out / "quarantine.jsonl", "--filter", "score > 2")
    assert again.returncode == 3 and "Traceback" not in again.stderr
    assert "0 records were rejected, and 2 are left out; no dataset was made" in again.stderr
