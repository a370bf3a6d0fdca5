"""Retrying a quarantine: what was fixed joins the dataset, what was not stays where it was."""

from __future__ import annotations

import json
import shlex
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from convert_help import (
    Converted,
    Row,
    convert_in,
    files_of,
    make_source,
    read_quarantine,
    read_samples,
    reasons_of,
    record,
    run_cli,
    text_record,
    turns,
    write_quarantine,
)
from handmade import picture

from neva_prep.dataprep import convert as convert_module
from neva_prep.dataprep.report import ConvertReport
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError, RecordError, ShardError

ROWS: list[Row] = [
    record("a"),
    record("late", "late.png"),
    record("b", score=1.50),
    record("silent", conversations=turns("<image>Why?")),
    record("large", "large.png"),
    text_record("c"),
    record("lost", "lost.jpg"),
    record("d"),
]
LATE, LARGE = picture(9, 9, "PNG"), picture(120, 100, "PNG")
SPLIT = {"train": 0.5, "val": 0.5}


def convert_rows(folder: Path, rows: list[Any] | bytes = ROWS, **options: Any) -> Converted:
    images = {"large.png": LARGE}
    return convert_in(folder, rows, images, **{"pixel_limit": 10_000, **options})


def fix_record(converted: Converted, name: str, **fields: Any) -> None:
    """Correct a record in quarantine.jsonl, in place."""
    rows = converted.rows
    for row in rows:
        if row["id"] == name:
            row["record"] |= fields
    write_quarantine(converted.out, rows)


def try_again(converted: Converted, **changes: Any) -> ConvertReport:
    report = retry(converted.out / "quarantine.jsonl", changes=changes)
    if not changes.get("dry_run"):
        assert report.records == report.samples + report.rejected
        assert len(read_samples(converted.out)) == report.samples
        assert len(converted.rows) == report.rejected
        assert not (converted.out / ".journal").exists()
        assert report.samples == 0 or verify(converted.out).findings == ()
    return report


def places(converted: Converted) -> dict[str, tuple[int, int, int]]:
    return {row["id"]: (row["index"], row["line"], row["byte"]) for row in converted.rows}


def test_what_was_fixed_joins_the_dataset_under_the_keys_it_would_have_had(tmp_path: Path) -> None:
    first = convert_rows(tmp_path / "first")
    assert reasons_of(first) == {
        "late": "missing_image",
        "silent": "no_answer",
        "large": "too_many_pixels",
        "lost": "missing_image",
    }
    before, shards = places(first), files_of(first.out)
    (tmp_path / "first" / "images" / "late.png").write_bytes(LATE)
    talk = turns("<image>Why?", "Because.")
    fix_record(first, "silent", conversations=talk)
    report = try_again(first, pixel_limit=12_000)
    assert (report.samples, report.rejected) == (7, 1)
    assert (report.images, report.turns, report.shards) == (6, 14, 2)
    assert report.rejections == {"missing_image": 1}
    # As if all had been well from the beginning.
    whole = [record("silent", conversations=talk) if r["id"] == "silent" else r for r in ROWS]
    expected = convert_in(
        tmp_path / "whole", whole, {"large.png": LARGE, "late.png": LATE}, pixel_limit=12_000
    )
    assert first.records == expected.records
    assert {k: sorted(m) for k, m in first.samples.items()} == {
        k: sorted(m) for k, m in expected.samples.items()
    }
    assert first.samples["000000001"]["000.png"] == LATE
    # What was there is as it was, and what is still broken stands where it stood.
    assert files_of(first.out)["train-000000.tar"] == shards["train-000000.tar"]
    assert places(first) == {"lost": before["lost"]}
    assert first.rows[0]["record"] == ROWS[6]


def test_each_fix_alone_is_enough(tmp_path: Path) -> None:
    for what, name in {"image": "late", "record": "silent", "limit": "large"}.items():
        converted = convert_rows(tmp_path / what)
        changes: dict[str, Any] = {}
        if what == "image":
            (tmp_path / what / "images" / "late.png").write_bytes(LATE)
        elif what == "record":
            fix_record(converted, "silent", conversations=turns("<image>", "Yes."))
        else:
            changes = {"pixel_limit": 12_000}
        report = try_again(converted, **changes)
        assert report.samples == 5 and name not in reasons_of(converted)


def test_images_may_be_looked_for_in_another_folder(tmp_path: Path) -> None:
    converted = convert_rows(tmp_path)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "lost.jpg").write_bytes(picture())
    report = retry(converted.out / "quarantine.jsonl", images=tmp_path / "others")
    assert (report.samples, report.rejected) == (5, 3)
    assert "000000006" in read_samples(converted.out)


def test_nothing_fixed_changes_nothing(tmp_path: Path) -> None:
    converted = convert_rows(tmp_path)
    before = files_of(converted.out)
    report = try_again(converted)
    assert (report.samples, report.rejected) == (4, 4)
    after = files_of(converted.out)
    # SQLite may lay the same rows out otherwise.
    rows = [query(tmp_path / "out"), before.pop(".nv-meta/index.sqlite")]
    after.pop(".nv-meta/index.sqlite")
    assert before == after and rows


def query(out: Path) -> list[Any]:
    with sqlite3.connect(out / ".nv-meta" / "index.sqlite") as database:
        return database.execute("SELECT * FROM samples").fetchall()


def test_retries_follow_each_other_until_nothing_is_left(tmp_path: Path) -> None:
    converted = convert_rows(tmp_path, split=SPLIT)
    before = places(converted)
    fix_record(converted, "silent", conversations=turns("<image>", "Yes."))
    try_again(converted)
    assert places(converted) == {n: p for n, p in before.items() if n != "silent"}
    for name in ("late.png", "lost.jpg"):
        (tmp_path / "images" / name).write_bytes(LATE)
    try_again(converted)
    assert places(converted) == {"large": before["large"]}
    report = try_again(converted, pixel_limit=10**6)
    assert (report.samples, report.rejected, converted.rows) == (8, 0, [])
    assert sorted(read_samples(converted.out)) == [f"{n:09d}" for n in range(8)]
    with pytest.raises(ConfigError, match="holds no record to retry"):
        try_again(converted)
    assert verify(converted.out).findings == ()


def test_fixed_record_goes_to_the_split_of_its_id(tmp_path: Path) -> None:
    rows = [record(f"id {n}", "late.png" if n % 2 else "good.jpg") for n in range(24)]
    converted = convert_rows(tmp_path / "bad", rows, split=SPLIT)
    (tmp_path / "bad" / "images" / "late.png").write_bytes(LATE)
    report = try_again(converted)
    whole = convert_in(tmp_path / "whole", rows, {"late.png": LATE}, split=SPLIT)
    assert report.splits == whole.report.splits
    for split in SPLIT:
        ids = [
            {
                json.loads(members["json"])["id"]
                for path in out.glob(f"{split}-*.tar")
                for members in read_one(path).values()
            }
            for out in (converted.out, whole.out)
        ]
        assert ids[0] == ids[1] and ids[0]


def read_one(path: Path) -> dict[str, dict[str, bytes]]:
    """Samples of one shard."""
    folder = path.parent / "one"
    folder.mkdir(exist_ok=True)
    link = folder / path.name
    link.symlink_to(path)
    try:
        return read_samples(folder)
    finally:
        link.unlink()
        folder.rmdir()


def test_wholly_rejected_conversion_becomes_a_dataset(tmp_path: Path) -> None:
    rows = [record(f"{n}", "late.png") for n in range(3)]
    converted = convert_rows(tmp_path, rows)
    assert not (converted.out / ".nv-meta").exists()
    before = places(converted)
    report = try_again(converted)
    assert report.samples == 0 and places(converted) == before
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    report = try_again(converted)
    assert (report.samples, report.rejected) == (3, 0)
    assert (converted.out / ".nv-meta" / ".info.json").exists()
    assert list(read_samples(converted.out)) == ["000000000", "000000001", "000000002"]


def test_dry_run_says_what_a_retry_would_do_and_does_not(tmp_path: Path) -> None:
    converted = convert_rows(tmp_path)
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    before = files_of(tmp_path)
    report = try_again(converted, dry_run=True)
    assert files_of(tmp_path) == before
    real = try_again(converted)
    assert (report.samples, report.rejected) == (real.samples, real.rejected) == (5, 3)
    assert report.rejections == real.rejections and report.images == real.images


def test_fixed_text_of_a_line_that_was_no_json_is_converted(tmp_path: Path) -> None:
    good, broken = json.dumps(record("a")), json.dumps(record("b"))[:-1]
    lines = "\n".join([good, broken, '{"id": NaN', good, json.dumps(text_record("half \ud83d"))])
    converted = convert_rows(tmp_path, lines.encode())
    rows = converted.rows
    assert [row["reason"] for row in rows] == ["invalid_json", "invalid_json", "lone_surrogate"]
    try_again(converted)
    assert [row["index"] for row in converted.rows] == [1, 2, 4]
    rows[0]["record_text"] = "\n " + rows[0]["record_text"] + "\n}"
    rows[2]["record_text"] = rows[2]["record_text"].replace("\\ud83d", "é")
    write_quarantine(converted.out, rows)
    assert try_again(converted).samples == 4
    assert converted.records["000000001"]["id"] == "b"
    assert converted.records["000000004"]["id"] == "half é"
    assert [(row["index"], row["line"]) for row in converted.rows] == [(2, 3)]


def test_fixed_rows_may_come_in_a_file_of_their_own(tmp_path: Path) -> None:
    converted = convert_rows(tmp_path)
    rows = [row for row in converted.rows if row["id"] == "silent"]
    rows[0]["record"]["conversations"] = turns("<image>", "Yes.")
    (converted.out / "fixed.jsonl").write_text(json.dumps(rows[0]) + "\n\n")
    report = retry(converted.out / "fixed.jsonl")
    assert (report.samples, report.rejected) == (5, 3)
    assert sorted(reasons_of(converted)) == ["large", "late", "lost"]


def spoil_rows(what: str, rows: list[Row]) -> list[Row]:
    if what == "twice":
        return [*rows, rows[0]]
    if what == "in the dataset":
        return [{**rows[0], "index": 0}, *rows[1:]]
    if what == "beyond the source":
        return [*rows, {**rows[0], "index": 99}]
    if what == "negative":
        return [{**rows[0], "index": -1}, *rows[1:]]
    if what == "a row too few":
        return rows[1:]
    return [{"index": 1}, *rows[1:]]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("twice", "two rows have the index 1"),
        ("in the dataset", "record 0 is in the dataset already"),
        ("beyond the source", "the source had no record 99"),
        ("negative", "the source had no record -1"),
        ("a row too few", "has 3 rows, but 4 records were rejected"),
        ("no row", "line 1 is no row of a quarantine"),
    ],
)
def test_rows_that_cannot_be_are_refused_and_nothing_is_left_behind(
    tmp_path: Path, what: str, says: str
) -> None:
    converted = convert_rows(tmp_path)
    good = converted.rows
    write_quarantine(converted.out, spoil_rows(what, good))
    before = files_of(converted.out)
    with pytest.raises(RecordError, match=says):
        retry(converted.out / "quarantine.jsonl")
    assert files_of(converted.out) == before
    # Corrected, it works at once.
    write_quarantine(converted.out, good)
    assert try_again(converted).rejected == 4


def test_quarantine_that_is_not_there_is_named(tmp_path: Path) -> None:
    converted = convert_rows(tmp_path)
    before = files_of(converted.out)
    for path in (converted.out / "gone.jsonl", converted.out, Path("nope")):
        with pytest.raises(ConfigError, match=f"--retry {path}: there is no such file; give the"):
            retry(path)
    (tmp_path / "quarantine.jsonl").touch()
    with pytest.raises(ConfigError, match=rf"{tmp_path} is no dataset, .* no neva-prep\.json"):
        retry(tmp_path / "quarantine.jsonl")
    assert files_of(converted.out) == before


def test_nothing_that_is_given_beside_retry_is_left_unread(tmp_path: Path) -> None:
    quarantine = convert_rows(tmp_path).out / "quarantine.jsonl"
    before = files_of(quarantine.parent)
    for given, message in (
        ([tmp_path / "source.json"], "leave out"),
        (["--out", tmp_path / "zz"], "leave out --out"),
    ):
        done = run_cli("convert", "--retry", quarantine, *given)
        assert done.returncode == 2 and message in done.stderr
    assert files_of(quarantine.parent) == before and not (tmp_path / "zz").exists()


@pytest.mark.parametrize("stage", ["write_shards", "write_quarantine", "commit"])
def test_interrupted_retry_goes_on_with_resume(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = convert_rows(tmp_path, shard_count=1)
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    fix_record(converted, "silent", conversations=turns("<image>", "Yes."))
    before = files_of(converted.out)

    def fail(*_: Any) -> None:
        raise ShardError("the disk is full")

    module = retry_module() if stage == "write_shards" else convert_module
    with monkeypatch.context() as patch:
        patch.setattr(module, stage, fail)
        with pytest.raises(ShardError, match="the disk is full"):
            retry(converted.out / "quarantine.jsonl")
    kept = files_of(converted.out)
    changing = {"quarantine.jsonl", ".nv-meta/.info.json"} if stage == "commit" else set()
    assert {n: c for n, c in before.items() if n not in changing}.items() <= kept.items()
    with pytest.raises(ConfigError, match="--resume"):
        retry(converted.out / "quarantine.jsonl")
    report = try_again(converted, resume=True)
    assert (report.samples, report.rejected) == (6, 2)
    assert sorted(reasons_of(converted)) == ["large", "lost"]


def retry_module() -> Any:
    import neva_prep.dataprep.retry

    return neva_prep.dataprep.retry


def test_retry_after_a_limited_conversion_keeps_its_limit(tmp_path: Path) -> None:
    converted = convert_rows(tmp_path, limit=3)
    (tmp_path / "images" / "late.png").write_bytes(LATE)
    report = try_again(converted)
    assert (report.records, report.samples) == (3, 3)


def test_placeholder_insert_can_be_the_fix(tmp_path: Path) -> None:
    rows = [record("a"), record("b", conversations=turns("Why?", "Because."))]
    converted = convert_rows(tmp_path, rows)
    report = try_again(converted, placeholder="insert")
    assert report.samples == 2 and report.repairs == {"placeholder_inserted": 1}
    assert converted.records["000000001"]["conversations"][0]["value"] == "<image>\nWhy?"


def test_command_says_4_while_something_is_left_and_0_when_nothing_is(tmp_path: Path) -> None:
    make_source(tmp_path, [record("a"), record("b", "late.png"), record("c", "lost.jpg")])
    images, out = tmp_path / "images", tmp_path / "out"
    run_cli("convert", tmp_path / "source.json", "--images", images, "--out", out)
    (images / "late.png").write_bytes(LATE)
    done = run_cli("convert", "--retry", out / "quarantine.jsonl")
    assert done.returncode == 4 and "lost.jpg" in done.stdout
    (images / "lost.jpg").write_bytes(picture())
    done = run_cli("convert", "--retry", out / "quarantine.jsonl", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["samples"] == 3
    assert read_quarantine(out) == []
    done = run_cli("convert", "--retry", out / "quarantine.jsonl", "--overwrite")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_retry_that_was_finished_can_be_resumed_again(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]
    source, out = tmp_path / "source.json", tmp_path / "out"
    source.write_text(
        json.dumps([{"id": 1, "conversations": turns}, {"id": 2, "conversations": turns[:1]}])
    )
    convert_module.convert(source, tmp_path, out)
    quarantine = out / "quarantine.jsonl"
    rows = [json.loads(line) for line in quarantine.read_text().splitlines()]
    rows[0]["record"]["conversations"] = turns
    quarantine.write_text(json.dumps(rows[0]) + "\n")
    assert retry(quarantine).samples == 2
    assert retry(quarantine, changes={"resume": True}).samples == 2
    assert not (out / ".journal").exists()
    with pytest.raises(ConfigError, match="no record to retry"):
        retry(quarantine)


def test_the_command_that_is_printed_can_be_pasted(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("a"), record("b", "gone.jpg")])
    out = tmp_path / "my $shards"
    done = run_cli("convert", source, "--images", tmp_path / "images", "--out", out)
    printed = done.stderr.strip().rpartition("neva-prep ")[2]
    assert shlex.split(printed) == ["convert", "--retry", f"{out}/quarantine.jsonl"]
