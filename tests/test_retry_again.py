"""Retries in several steps: stopped, with rows corrected meanwhile, with options of their own."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from convert_help import (
    Converted,
    convert_in,
    files_of,
    make_source,
    read_samples,
    record,
    text_record,
    turns,
    write_quarantine,
)
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.reasons import WARNINGS
from neva_prep.dataprep.report import ConvertReport
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError, RecordError

LATE = picture(9, 9, "PNG")
ROWS = [record("a"), record("late", "late.png"), record("lost", "lost.png"), record("b")]


def try_again(converted: Converted, **changes: Any) -> ConvertReport:
    return retry(converted.out / "quarantine.jsonl", changes=changes)


def fix_path(converted: Converted, name: str, image: str) -> None:
    rows = converted.rows
    for row in rows:
        if row["id"] == name:
            row["record"]["image"] = image
    write_quarantine(converted.out, rows)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"limit": 1}, "is of --limit None"),
        ({"sample_index": False}, "is of --sample-index True"),
        ({"format": "sharegpt"}, "is of --format auto"),
        ({"reader": "module:read"}, "is of --reader None"),
        ({"finish": True}, "is of --finish False"),
    ],
)
def test_a_retry_refuses_options_of_the_source_and_of_the_whole_dataset(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    converted = convert_in(tmp_path, ROWS)
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    before = files_of(converted.out)
    with pytest.raises(ConfigError, match=says):
        try_again(converted, **changes)
    assert files_of(converted.out) == before
    assert (try_again(converted).samples, len(converted.rows)) == (3, 1)


def test_options_given_as_before_are_no_change(tmp_path: Path) -> None:
    converted = convert_in(tmp_path, ROWS, limit=3, format="llava")
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    report = try_again(converted, limit=3, format="llava", sample_index=True)
    assert (report.records, report.samples, report.rejected) == (3, 2, 1)


def test_rows_corrected_after_a_retry_was_stopped_are_taken_as_they_are_now(
    tmp_path: Path,
) -> None:
    converted = convert_in(tmp_path, ROWS)
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    with pytest.raises(RecordError, match="stopped after 1 of 2"):
        try_again(converted, max_errors=0, shard_count=1)
    fix_path(converted, "lost", "good.jpg")
    report = try_again(converted, max_errors=0, resume=True)
    assert (report.samples, report.rejected, converted.rows) == (4, 0, [])
    assert converted.records["000000002"]["image"] == "good.jpg"
    # Of the two shards that were begun with one sample each nothing is left.
    assert sorted(path.name for path in converted.out.glob("*.tar")) == [
        "train-000000.tar",
        "train-000001.tar",
    ]
    assert verify(converted.out).findings == ()


def test_a_stopped_retry_goes_on_with_rows_that_come_in_another_file(tmp_path: Path) -> None:
    converted = convert_in(tmp_path, ROWS)
    rows = converted.rows
    with pytest.raises(RecordError, match="stopped after"):
        try_again(converted, max_errors=0)
    rows[0]["record"]["image"] = "good.jpg"
    (tmp_path / "fixed.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (converted.out / "fixed.jsonl").write_bytes((tmp_path / "fixed.jsonl").read_bytes())
    report = retry(converted.out / "fixed.jsonl", changes={"resume": True})
    assert (report.samples, [row["id"] for row in converted.rows]) == (3, ["lost"])


def test_what_is_wrong_with_an_evaluation_set_is_counted_once(tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation"
    make_source(evaluation, [record("x", "gone.jpg"), text_record("y", "Who?", "I.")])
    given = f"{evaluation / 'source.json'}={evaluation / 'images'}"
    converted = convert_in(tmp_path, ROWS, exclude=[given], exclude_by="images")
    assert converted.report.warnings["exclude_unreadable"] == 1
    for _ in range(2):
        assert try_again(converted).warnings["exclude_unreadable"] == 1


def test_a_retry_tells_records_of_which_a_filter_cannot_say_anything(tmp_path: Path) -> None:
    rows = [record("a", score=1), record("late", "late.png"), record("lost", "lost.png", score=2)]
    converted = convert_in(tmp_path, rows)
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    report = try_again(converted, filter=["score > 0 and width > 0"])
    assert "filter_unknown" in WARNINGS and report.warnings["filter_unknown"] == 1
    assert report.warning_examples["filter_unknown"] == ["record 1"]
    assert (report.samples, report.filtered, report.rejected) == (1, 1, 1)


def test_pairs_of_a_retry_that_began_anew_are_forgotten(tmp_path: Path) -> None:
    rows = [record("a"), record("b", "late.png"), record("c", "late.png"), record("d", "no.png")]
    converted = convert_in(tmp_path, rows, dedup="exact")
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    with pytest.raises(RecordError, match="stopped after"):
        try_again(converted, max_errors=0)
    # No repetition any more.
    fix = converted.rows
    fix[1]["record"]["conversations"] = turns("<image>Another?", "Yes.")
    fix[2]["record"]["image"] = "good.jpg"
    fix[2]["record"]["conversations"] = turns("<image>A third?", "Yes.")
    write_quarantine(converted.out, fix)
    report = try_again(converted, max_errors=0, resume=True)
    assert (report.samples, report.filtered) == (4, 0)
    assert (converted.out / "duplicates.jsonl").read_bytes() == b""


def test_a_record_without_id_comes_to_the_split_that_it_would_have_had(tmp_path: Path) -> None:
    rows = [
        record(
            "", "late.png" if n > 3 else "good.jpg", id=..., conversations=turns(f"<image>{n}", "é")
        )
        for n in range(24)
    ]
    split = {"train": 0.5, "val": 0.5}
    for number, how in enumerate(({"indent": 2}, {"separators": (",", ":")})):
        source = json.dumps(rows, **how).encode()  # type: ignore[arg-type]
        converted = convert_in(tmp_path / f"{number}", source, split=split)
        (tmp_path / f"{number}" / "images" / "late.png").write_bytes(LATE)
        if number:
            # Read and written anew by a script: spaces and escapes are others.
            write_quarantine(converted.out, converted.rows)
        report = try_again(converted)
        whole = convert_in(tmp_path / f"{number}-w", source, {"late.png": LATE}, split=split)
        assert report.splits == whole.report.splits
        assert len(report.splits) == 2 and read_samples(converted.out).keys() == set(whole.samples)


def test_images_that_are_not_where_they_are_said_to_be_leave_no_unfinished_retry(
    tmp_path: Path,
) -> None:
    converted = convert_in(tmp_path, ROWS)
    before = files_of(converted.out)
    with pytest.raises(ConfigError, match="no such folder"):
        retry(converted.out / "quarantine.jsonl", images=tmp_path / "nowhere")
    assert files_of(converted.out) == before
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    assert try_again(converted).samples == 3


def tar_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


PAIRS = {"a.jpg": picture(), "a.txt": b"A ring.", "b.jpg": LATE, "b.txt": b" "}


def test_a_source_that_holds_its_images_may_have_been_moved(tmp_path: Path) -> None:
    source, out = tmp_path / "pairs.tar", tmp_path / "out"
    source.write_bytes(tar_of(PAIRS))
    converted = Converted(out, convert(source, None, out))
    rows = converted.rows
    rows[0]["record"]["caption"] = "Another."
    write_quarantine(out, rows)
    (tmp_path / "new").mkdir()
    source.rename(tmp_path / "new" / "pairs.tar")
    with pytest.raises(ConfigError, match=r"pairs\.tar: the source that holds the images is not"):
        try_again(converted)
    report = retry(out / "quarantine.jsonl", images=tmp_path / "new" / "pairs.tar")
    assert (report.samples, report.rejected) == (2, 0)
    assert converted.samples["000000001"]["000.png"] == LATE


def test_a_source_elsewhere_that_holds_its_images_can_be_retried(tmp_path: Path) -> None:
    address = "memory://retried/pairs.tar"
    pytest.importorskip("fsspec").filesystem("memory").pipe("/retried/pairs.tar", tar_of(PAIRS))
    reports, manifests = [], []
    for out in (tmp_path / "out", tmp_path / "other"):
        reports.append(convert(address, None, out))
        manifests.append((out / "neva-prep.json").read_bytes())
    # Nothing of the machine is in the manifest, and the finished dataset is known again.
    assert manifests[0] == manifests[1]
    resumed = convert(address, None, tmp_path / "out", ConvertOptions(resume=True))
    assert resumed.counts() == reports[0].counts()
    converted = Converted(tmp_path / "out", reports[0])
    rows = converted.rows
    rows[0]["record"]["caption"] = "Another."
    write_quarantine(converted.out, rows)
    assert (try_again(converted).samples, converted.rows) == (2, [])
    assert converted.samples["000000001"]["000.png"] == LATE


def test_of_what_is_no_json_no_line_is_told(tmp_path: Path) -> None:
    table = make_source(tmp_path, [], {}).with_name("table.csv")
    table.write_text("image,question,answer\ngood.jpg,What?,That.\ngone.jpg,Why?,So.\n")
    out = tmp_path / "out"
    converted = Converted(out, convert(table, tmp_path / "images", out))
    assert [(row["index"], row["line"], row["byte"]) for row in converted.rows] == [(1, None, None)]
    assert try_again(converted).rejected == 1
    assert [(row["index"], row["line"], row["byte"]) for row in converted.rows] == [(1, None, None)]


def test_rows_that_are_not_tried_are_no_errors_of_a_retry(tmp_path: Path) -> None:
    lines = b"\n".join([*(json.dumps(row).encode() for row in ROWS[:2]), b"{broken", b"{"])
    converted = convert_in(tmp_path, lines)
    with pytest.raises(RecordError, match=r"after 1 of 1 .* --max-errors 0: missing_image 1; for"):
        try_again(converted, max_errors=0)
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    assert try_again(converted, resume=True).rejected == 3
    report = try_again(converted, max_errors=0)
    assert (report.samples, report.rejections) == (2, {"invalid_json": 2})
