"""Whole sources of other forms: mixed, wrapped, retried, looked at, and a user's own."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from convert_help import convert_in, make_source, reasons_of, record, turns, write_quarantine
from form_help import ANSWER, ASK
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.diff import diff
from neva_prep.dataprep.doctor.doctor import doctor
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.stats.run import stats
from neva_prep.dataprep.viewer.rows import read_rows
from neva_prep.errors import ConfigError, RecordError


def test_a_source_of_junk_converts_with_every_record_accounted_for(tmp_path: Path) -> None:
    rows = [{"messages": [ASK, ANSWER], "id": "good"}, {"messages": [ASK, ANSWER], "id": "fine"}]
    odd: list[Any] = [1, None, [], {}, {"messages": 3}, {"messages": [1]}, {"messages": [{}, {}]}]
    odd += [{"messages": [{"role": 1, "content": []}]}, {"instruction": "a", "output": "b"}]
    converted = convert_in(tmp_path, [*rows * 6, *odd], shard_count=4)
    assert converted.report.format == "messages-json" and converted.report.samples == 12
    assert converted.report.rejections.pop("other_form") == 1
    assert sum(converted.report.rejections.values()) == len(odd) - 1
    assert [row["record"] for row in converted.rows] == odd


# --- whole sources --------------------------------------------------------------------------------


def test_a_quarantined_record_is_retried_in_its_own_form(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(n),
            "messages": [{"role": "user", "content": "<image>"}, ANSWER],
            "images": [path],
        }
        for n, path in enumerate(("good.jpg", "late.jpg"))
    ]
    converted = convert_in(tmp_path, rows)
    assert reasons_of(converted) == {"1": "missing_image"}
    (tmp_path / "images" / "late.jpg").write_bytes(picture())
    assert retry(converted.out / "quarantine.jsonl").samples == 2
    assert [json.loads(m["json"])["id"] for m in converted.samples.values()] == ["0", "1"]


def test_a_row_corrected_in_its_own_form_is_retried(tmp_path: Path) -> None:
    rows = [{"id": str(n), "messages": [ASK, ANSWER]} for n in range(2)]
    rows[1]["messages"] = [ASK]
    converted = convert_in(tmp_path, rows)
    (row,) = converted.rows
    row["record"]["messages"].append(ANSWER)
    write_quarantine(converted.out, [row])
    assert retry(converted.out / "quarantine.jsonl").samples == 2


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_in_a_field_of_one_object_is_read_in_place(tmp_path: Path, indent: Any) -> None:
    rows = [{"id": str(n), "messages": [ASK, ANSWER]} for n in range(5)]
    whole = {'in\u00fc"fo': {"data": [1]}, "data": rows, "after": [2]}
    converted = convert_in(tmp_path, json.dumps(whole, indent=indent).encode(), shard_count=2)
    assert converted.report.samples == 5 and converted.report.format == "messages-json"
    assert [row["id"] for row in converted.records.values()] == list("01234")


def test_format_that_is_named_is_taken_and_an_unknown_one_refused(tmp_path: Path) -> None:
    row = {"id": "a", "question": "Why?", "answer": "So.", "messages": [ASK, ANSWER]}
    source = make_source(tmp_path, [row])
    for form, text in (("auto", "Why?"), ("vqa", "Why?"), ("messages", "Why?")):
        options = ConvertOptions(format=form, overwrite=True)
        report = convert(source, tmp_path / "images", tmp_path / "out", options)
        assert report.samples == 1 and report.format == f"{form.replace('auto', 'messages')}-json"
        assert bool(report.format_why) == (form == "auto") and text
    options = ConvertOptions(format="llava", overwrite=True)
    report = convert(source, tmp_path / "images", tmp_path / "out", options)
    assert report.rejections == {"missing_conversations": 1}
    with pytest.raises(ConfigError, match="--format xml: give one of auto, alpaca"):
        ConvertOptions(format="xml")


def test_every_look_at_a_source_reads_its_form(tmp_path: Path) -> None:
    inside = base64.b64encode(picture()).decode()
    shown = {"role": "user", "content": [{"type": "image", "bytes": inside}, {"text": "Why?"}]}
    rows = [
        {"id": "a", "messages": [shown, ANSWER], "n": 1},
        {"id": "b", "messages": [{"role": "user", "content": "<image>"}, ANSWER], "images": ["x"]},
        {"id": "c", "messages": [ASK, {"role": "tool", "content": "9"}]},
    ]
    source = make_source(tmp_path, rows)
    images = tmp_path / "images"
    looked = open_looked(source, images=images)
    sample = looked.sample(0)
    assert [turn.text for turn in sample.turns] == ["<image>Why?", "So."]
    assert [image.data for image in sample.images] == [picture()]
    assert looked.messages(0)[0] == {"from": "human", "value": "<image>Why?"}
    assert looked.encodable(0).images == [picture()]
    assert [view.findings[0].reason for view in looked.quarantined()] == [
        "missing_image", "unknown_role"
    ]  # fmt: skip
    third = looked.record(2)
    (finding,) = third.findings
    assert json.loads(third.text[finding.start : finding.end])["role"] == "tool"
    assert [row.reason for row in read_rows(looked)] == [None, "missing_image", "unknown_role"]
    counted = stats(source, images=images)
    assert counted.counted == 1 and counted.left_out == {"missing_image": 1, "unknown_role": 1}
    found = doctor(source, images)
    assert found.form.is_read and found.wrong == 2
    out = convert_in(tmp_path, rows).out
    assert diff(source, out, images_a=images).unchanged == 1


# --- a user's own format --------------------------------------------------------------------------

OWN = """
def records(path):
    for number, line in enumerate(path.read_text().splitlines()):
        question, answer = line.split("|")
        yield {"id": number, "conversations": [
            {"from": "human", "value": question}, {"from": "gpt", "value": answer}]}

def odd(path):
    yield {"conversations": []}
    yield {"conversations": {1, 2}}

def words(path):
    yield "word"
"""


def test_a_function_of_the_user_yields_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_format.py").write_text(OWN)
    (tmp_path / "talk.txt").write_text("Why?|So.\nHow?|Thus.\n")

    def run(function: str, source: str = "talk.txt") -> Any:
        options = ConvertOptions(reader=f"my_own_format:{function}", overwrite=True)
        return convert(tmp_path / source, None, tmp_path / "out", options)

    report = run("records")
    assert (report.samples, report.format, report.format_why) == (2, "llava-reader", "")
    (tmp_path / "talk.txt").write_text("Why?|So.\nHow?\n")
    with pytest.raises(
        RecordError, match=r"my_own_format:records: fails at record 1 of .*ValueErr"
    ):
        run("records")
    with pytest.raises(RecordError, match=r"record 1 .*TypeError.*set"):
        run("odd")
    with pytest.raises(RecordError, match="record 0 is a str; yield a dict"):
        run("words")
    with pytest.raises(ConfigError, match="has no function 'gone'"):
        run("gone")
    with pytest.raises(ConfigError, match="importing no_such_module fails: ModuleNotFound"):
        options = ConvertOptions(reader="no_such_module:f", overwrite=True)
        convert(tmp_path / "talk.txt", None, tmp_path / "out", options)


def test_turns_of_llava_are_untouched_by_all_this(tmp_path: Path) -> None:
    row = record("a", n=1.10, conversations=turns("<image> <image1> <img>", "So."))
    converted = convert_in(tmp_path, [row])
    stored = next(iter(converted.records.values()))
    assert stored.pop("images")[0]["source"] == "good.jpg" and stored == row
    assert converted.report.format == "llava-json" and converted.report.repairs == {}
