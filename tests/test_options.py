"""What the options of convert promise: sizes, splits, limits, dry runs, and what may be removed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from convert_help import (
    convert_in,
    files_of,
    make_source,
    read_samples,
    record,
    run_cli,
    text_record,
    turns,
)
from handmade import picture
from killed import run_killed

from neva_prep.dataprep import convert as convert_module
from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.engines.job import Job, Tally
from neva_prep.dataprep.engines.local import run_here
from neva_prep.dataprep.options import (
    ConvertOptions,
    parse_max_errors,
    parse_size,
    parse_split,
)
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.task import Task, convert_task
from neva_prep.dataprep.verify import verify
from neva_prep.dataprep.watch import Watch
from neva_prep.errors import ConfigError, RecordError

MIXED = [
    record("a"),
    text_record("b"),
    record("c", "gone.jpg"),
    record("d", conversations=turns("<image>Why?")),
    record("e"),
    record("f", "gone.jpg"),
    text_record("g"),
    record("h"),
]


def shards_of(out: Path) -> dict[str, list[str]]:
    """Ids in each shard, in order."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        alone = out.parent / f"alone-{out.name}-{path.stem}"
        alone.mkdir()
        (alone / path.name).hardlink_to(path)
        found[path.name] = [json.loads(m["json"])["id"] for m in read_samples(alone).values()]
    return found


# Sizes.


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1k", 1000),
        ("1KiB", 1024),
        ("1.5 MB", 1_500_000),
        ("512MiB", 512 << 20),
        ("1GB", 10**9),
        (" 2 gib ", 2 << 30),
        ("1T", 10**12),
        ("0.1GB", 10**8),
    ],
)
def test_sizes_are_read_as_they_are_written(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "1 gigabyte", "1e9", "1,000", "1.GB", "0x10", "ib"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        parse_size(text)


def test_shards_are_cut_by_count(tmp_path: Path) -> None:
    converted = convert_in(tmp_path, [text_record(f"{n}") for n in range(7)], shard_count=3)
    assert list(shards_of(converted.out).values()) == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6"],
    ]


def test_shards_are_cut_by_size_and_none_exceeds_it(tmp_path: Path) -> None:
    content = picture(100, 100)
    rows = [record(f"{n}", f"{n}.jpg") for n in range(30)]
    images = {f"{n}.jpg": content for n in range(30)}
    limit = 10_240 + 5 * (len(content) + 2500)
    converted = convert_in(tmp_path, rows, images, shard_size_bytes=limit)
    sizes = [path.stat().st_size for path in converted.out.glob("*.tar")]
    assert len(sizes) > 3 and max(sizes) <= limit
    assert [name for ids in shards_of(converted.out).values() for name in ids] == [
        f"{n}" for n in range(30)
    ]


def test_sample_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    rows = [text_record("a"), text_record("large", "x" * 30_000, "y"), text_record("b")]
    converted = convert_in(tmp_path, rows, shard_size_bytes=12_000)
    assert list(shards_of(converted.out).values()) == [["a"], ["large"], ["b"]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shard_size_bytes": 10_239}, "--shard-size 10239: a tar has 10,240 bytes at least"),
        ({"shard_count": 0}, "--shard-count must be 1 or more"),
        ({"workers": 0}, "--workers must be 1 or more"),
        ({"pixel_limit": 0}, "--pixel-limit must be 1 or more"),
        ({"limit": 0}, "--limit must be 1 or more"),
        ({"split": {}}, "--split names no split"),
        ({"split": {"train": 0}}, "--split train=0"),
        ({"split": {"train": -1}}, "--split train=-1"),
        ({"split": {"train": float("nan")}}, "--split train=nan"),
        ({"split": {"../x": 1}}, r"--split \.\./x=1"),
        ({"split": {"1": 1}}, "--split 1=1"),
        ({"split": {"a-b": 1}}, "--split a-b=1"),
        ({"resume": True, "overwrite": True}, "give one of them"),
    ],
)
def test_options_that_cannot_work_are_refused_with_the_option_named(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        ConvertOptions(**options)
    assert caught.value.exit_code == 2


# Splits.


def test_splits_are_read_as_they_are_written() -> None:
    assert parse_split("train=0.98,val=0.02") == {"train": 0.98, "val": 0.02}
    assert parse_split(" train = 3 , test=1") == {"train": 3.0, "test": 1.0}


@pytest.mark.parametrize("text", ["", "train", "train=", "train=x", "a=1,a=2", "a=1,", "=1"])
def test_what_is_no_split_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--split"):
        ConvertOptions(split=parse_split(text))


SPLIT = {"train": 0.7, "val": 0.2, "test": 0.1}


def split_of(out: Path) -> dict[str, str]:
    """Split of each id."""
    return {name: shard.split("-")[0] for shard, ids in shards_of(out).items() for name in ids}


def test_a_record_stays_in_its_split_when_others_are_added_or_reordered(tmp_path: Path) -> None:
    rows = [text_record(f"record {n}", f"Question {n}?", "Yes.") for n in range(300)]
    few = split_of(convert_in(tmp_path / "few", rows[::3], split=SPLIT).out)
    all_of = split_of(
        convert_in(tmp_path / "all", rows[::-1], split=SPLIT, shuffle=5, shard_count=40).out
    )
    assert few.items() <= all_of.items() and len(all_of) == 300
    # A change of the record does not move it either: its id alone decides.
    changed = [{**row, "conversations": turns("Other?", "No.")} for row in rows]
    assert split_of(convert_in(tmp_path / "changed", changed, split=SPLIT).out) == all_of


def test_shares_are_roughly_as_asked_and_need_not_add_up_to_one(tmp_path: Path) -> None:
    rows = [text_record(f"{n}") for n in range(3000)]
    report = convert_in(tmp_path / "a", rows, split=SPLIT).report
    assert report.samples == 3000
    for name, share in SPLIT.items():
        # Four standard deviations.
        assert abs(report.splits[name] - 3000 * share) < 4 * (3000 * share * (1 - share)) ** 0.5
    scaled = {name: share * 30 for name, share in SPLIT.items()}
    assert convert_in(tmp_path / "b", rows, split=scaled).report.splits == report.splits


def test_no_empty_split_is_written_and_it_is_reported(tmp_path: Path) -> None:
    rows = [text_record("a"), text_record("b")]
    converted = convert_in(tmp_path, rows, split={"train": 1, "val": 1e-9})
    assert list(shards_of(converted.out)) == ["train-000000.tar"]
    assert converted.report.splits == {"train": 2}
    assert converted.report.warnings == {"empty_split": 1}
    assert "val" in str(converted.report.warning_examples["empty_split"])
    assert "val" not in (converted.out / ".nv-meta" / "split.yaml").read_text()


def test_split_whose_every_record_is_rejected_is_not_written(tmp_path: Path) -> None:
    rows = [text_record(f"{n}") for n in range(40)]
    where = split_of(convert_in(tmp_path / "good", rows, split=SPLIT).out)
    bad = [{**row, "conversations": []} if where[row["id"]] == "val" else row for row in rows]
    converted = convert_in(tmp_path / "bad", bad, split=SPLIT)
    assert (
        set(converted.report.splits) == {"train", "test"} == set(split_of(converted.out).values())
    )
    assert "val" not in (converted.out / ".nv-meta" / "split.yaml").read_text()


# Limits.


def test_limit_takes_the_first_records_and_does_not_look_further(tmp_path: Path) -> None:
    content = b"[" + b", ".join(json.dumps(row).encode() for row in MIXED[:4]) + b", broken"
    converted = convert_in(tmp_path, content, limit=3)
    assert (converted.report.records, converted.report.rejected) == (3, 1)
    more = convert_in(tmp_path / "more", MIXED, limit=99)
    assert more.report.records == len(MIXED)


@pytest.mark.parametrize(
    ("text", "limit"), [("0", 0), ("100", 100), ("0.5%", 0.005), ("100%", 1.0), ("0%", 0.0)]
)
def test_max_errors_are_a_count_or_a_share(text: str, limit: float) -> None:
    assert parse_max_errors(text) == limit
    assert isinstance(parse_max_errors(text), float) == ("%" in text)


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "half", "0.5", "1%%"])
def test_what_is_no_limit_of_errors_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--max-errors"):
        parse_max_errors(text)


@pytest.mark.parametrize("limit", [3, 0.375, 100, 1.0])
def test_errors_up_to_the_limit_pass(tmp_path: Path, limit: float) -> None:
    assert convert_in(tmp_path, MIXED, max_errors=limit).report.rejected == 3


@pytest.mark.parametrize("limit", [0, 2, 0.0, 0.374])
@pytest.mark.parametrize("workers", [1, 2])
def test_errors_beyond_the_limit_stop_with_their_reasons_and_make_no_dataset(
    tmp_path: Path, limit: float, workers: int
) -> None:
    with pytest.raises(RecordError) as caught:
        convert_in(tmp_path, MIXED, max_errors=limit, workers=workers, shard_count=4)
    message = str(caught.value)
    assert "of 8 records were rejected, more than --max-errors" in message
    assert "missing_image 1" in message or "missing_image 2" in message
    assert "gone.jpg" in message and "--resume" in message
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out" / ".nv-meta").exists()
    # It goes on where it stopped when more errors are allowed.
    options = ConvertOptions(resume=True, max_errors=3, shard_count=4)
    report = convert(tmp_path / "source.json", tmp_path / "images", tmp_path / "out", options)
    assert (report.samples, report.rejected) == (5, 3)


def test_errors_are_counted_while_writing_so_that_a_hopeless_run_stops_early(
    tmp_path: Path,
) -> None:
    rows = [record(f"{n}", "gone.jpg") for n in range(50)]
    with pytest.raises(RecordError, match=r"stopped after 10 of 50 .* anew with --overwrite"):
        convert_in(tmp_path, rows, max_errors=5, shard_count=10)


def test_errors_of_shards_that_are_still_written_are_told_when_those_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_shards(job: Job, pending: Any, tick: Any) -> None:
        # As from two workers: one shard has ended, and the other has rejected records so far.
        tick(Tally(0, 5, 3, shard_ended=True))
        run_here(job, pending, tick)

    monkeypatch.setattr(convert_module, "run_shards", run_shards)
    rows = [record(f"{n}", "gone.jpg" if n > 3 else "good.jpg") for n in range(8)]
    with pytest.raises(RecordError, match=r"stopped after 4 of 8 .*: missing_image 4; for example"):
        convert_in(tmp_path, rows, max_errors=2, shard_count=4)


def test_on_error_fail_leaves_what_resume_can_use(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"record 2 \(id 'c'\).*gone\.jpg"):
        convert_in(tmp_path, MIXED, on_error="fail", shard_count=1)
    options = ConvertOptions(resume=True, shard_count=1)
    report = convert(tmp_path / "source.json", tmp_path / "images", tmp_path / "out", options)
    assert (report.samples, report.rejected) == (5, 3)


# Dry runs.


@pytest.mark.parametrize("workers", [1, 2])
def test_dry_run_writes_nothing_and_counts_as_the_real_run(tmp_path: Path, workers: int) -> None:
    options: dict[str, Any] = {"split": SPLIT, "shard_count": 2, "workers": workers}
    make_source(tmp_path, MIXED)
    before = files_of(tmp_path)
    dry = convert_in(tmp_path, MIXED, dry_run=True, **options).report
    assert files_of(tmp_path) == before and not (tmp_path / "out").exists()
    real = convert_in(tmp_path, MIXED, **options).report
    differing = {"bytes"}  # a dry run does not make the tars whose bytes these are
    a, b = dry.counts(), real.counts()
    assert {n for n in a if a[n] != b[n]} <= differing
    assert dry.dry_run and not real.dry_run


def test_dry_run_needs_no_out_and_shows_what_would_be_rejected(tmp_path: Path) -> None:
    source = make_source(tmp_path, MIXED)
    before = files_of(tmp_path)
    done = run_cli("convert", source, "--images", tmp_path / "images", "--dry-run")
    assert done.returncode == 4 and files_of(tmp_path) == before
    assert "missing_image" in done.stdout and "no_answer" in done.stdout
    assert "nothing written" in done.stdout
    assert not Path("dry-run").exists()


def test_without_out_or_source_the_usage_says_so(tmp_path: Path) -> None:
    source = make_source(tmp_path, MIXED)
    for arguments, says in (([source], "--out"), ([], "SOURCE")):
        done = run_cli("convert", *arguments)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


# What may be touched.


def test_a_finished_dataset_is_not_touched_without_overwrite(tmp_path: Path) -> None:
    convert_in(tmp_path, MIXED)
    before = files_of(tmp_path)
    with pytest.raises(ConfigError, match="holds a finished dataset; give another folder"):
        convert_in(tmp_path, MIXED)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "train-0.tar", "a/b.txt", ".hidden", "my.tar"])
def test_a_folder_with_foreign_files_is_refused_even_with_overwrite(
    tmp_path: Path, name: str, overwrite: bool
) -> None:
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        convert_in(tmp_path, MIXED, overwrite=overwrite)
    assert files_of(tmp_path / "out") == {name: b"mine"}


def test_foreign_files_beside_a_dataset_keep_it_from_being_overwritten(tmp_path: Path) -> None:
    out = convert_in(tmp_path, MIXED).out
    (out / "notes.txt").write_text("mine")
    before = files_of(out)
    with pytest.raises(ConfigError, match=r"holds other files \(notes\.txt\)"):
        convert_in(tmp_path, MIXED, overwrite=True)
    assert files_of(out) == before


def test_a_shard_that_no_dataset_of_ours_holds_is_foreign(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-000000.tar").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        convert_in(tmp_path, MIXED, overwrite=True)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (("typo.json", "images"), {}),
        (("source.json", "typo"), {}),
        (("source.json", "images"), {"filter": ["scor > 1"]}),
        (("source.json", "images"), {"exclude": ["typo.json"]}),
    ],
)
def test_overwrite_keeps_what_is_there_until_its_successor_is_planned(
    tmp_path: Path, given: tuple[str, str], options: dict[str, Any]
) -> None:
    out = convert_in(tmp_path, MIXED, dedup="exact").out
    before = files_of(out)
    source, images = (tmp_path / name for name in given)
    with pytest.raises((ConfigError, RecordError)):
        convert(source, images, out, ConvertOptions(overwrite=True, **options))
    assert files_of(out) == before


def test_overwrite_replaces_nothing_by_a_dataset_without_any_image(tmp_path: Path) -> None:
    out = convert_in(tmp_path, MIXED).out
    before = files_of(out)
    (tmp_path / "empty").mkdir()
    given = tmp_path / "source.json", tmp_path / "empty"
    with pytest.raises(ConfigError, match=r"not one of the \d images .* is in .*empty; .* stays"):
        convert(*given, out, ConvertOptions(overwrite=True))
    assert files_of(out) == before
    # A new folder loses nothing: there the report says what is missing.
    assert convert(*given, tmp_path / "other").rejected


def test_an_overwrite_that_is_stopped_while_it_plans_has_touched_nothing(tmp_path: Path) -> None:
    out = convert_in(tmp_path, MIXED).out
    before = files_of(out)

    class Stop(Watch):
        def begin(self, stage: str, records: int | None) -> None:
            raise KeyboardInterrupt

    given = (tmp_path / "source.json", tmp_path / "images", out)
    with pytest.raises(KeyboardInterrupt):
        convert(*given, ConvertOptions(overwrite=True, shard_count=1), Stop())
    assert files_of(out) == before
    # Killed outright, it leaves a note of what it was about to do.
    assert run_killed(9, lambda: convert(*given, ConvertOptions(overwrite=True, shard_count=1)))
    assert (out / ".journal" / "replace").exists() and (out / ".nv-meta" / ".info.json").exists()
    with pytest.raises(ConfigError, match="unfinished --overwrite"):
        convert_task(*given, ConvertOptions(shard_count=1), Task(number=0, count=1))
    resumed = convert(*given, ConvertOptions(resume=True, shard_count=1))
    fresh = convert_in(tmp_path / "fresh", MIXED, shard_count=1)
    assert resumed.shards == fresh.report.shards > 1
    assert read_samples(out) == fresh.samples and verify(out).findings == ()


def test_overwrite_leaves_what_a_fresh_conversion_leaves(tmp_path: Path) -> None:
    rows = [text_record(f"{n}") for n in range(9)]
    out = convert_in(tmp_path, rows, shard_count=1, split={"other": 1}).out
    assert len(list(out.glob("*.tar"))) == 9
    convert_in(tmp_path, MIXED, overwrite=True)
    fresh = tmp_path / "fresh"
    convert(tmp_path / "source.json", tmp_path / "images", fresh)
    assert files_of(out) == files_of(fresh)


def test_overwrite_follows_no_link_out_of_the_folder(tmp_path: Path) -> None:
    out = convert_in(tmp_path, MIXED).out
    victim = tmp_path / "victim.tar"
    victim.write_text("mine")
    (out / "train-000000.tar").unlink()
    (out / "train-000000.tar").symlink_to(victim)
    convert_in(tmp_path, MIXED, overwrite=True)
    assert victim.read_text() == "mine"


def test_out_may_be_missing_empty_or_deep_but_not_a_file(tmp_path: Path) -> None:
    source = make_source(tmp_path, MIXED)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b/c"):
        assert convert(source, tmp_path / "images", tmp_path / name).samples == 5
    with pytest.raises(ConfigError, match="is a file"):
        convert(source, tmp_path / "images", source)


def test_a_source_that_was_broken_converts_once_it_is_whole(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cut off"):
        convert_in(tmp_path, json.dumps(MIXED).encode()[:-40])
    assert not list((tmp_path / "out").glob("*.tar"))
    assert convert_in(tmp_path, MIXED, resume=True).report.samples == 5


def test_resume_of_a_finished_conversion_changes_nothing_and_reports_it(tmp_path: Path) -> None:
    first = convert_in(tmp_path, MIXED)
    before = files_of(tmp_path)
    again = convert_in(tmp_path, MIXED, resume=True)
    assert files_of(tmp_path) == before
    assert again.report.counts() == first.report.counts()


def test_shuffle_reorders_by_its_seed_alone_and_keeps_the_keys(tmp_path: Path) -> None:
    rows = [text_record(f"{n}") for n in range(50)]
    orders = []
    for number, seed in enumerate((None, 1, 1, 2)):
        out = convert_in(tmp_path / str(number), rows, shuffle=seed).out
        samples = read_samples(out)
        orders.append(list(samples))
        assert {key: json.loads(m["json"])["id"] for key, m in samples.items()} == {
            f"{n:09d}": f"{n}" for n in range(50)
        }
    assert orders[0] == sorted(orders[0]) != orders[1] == orders[2] != orders[3]


@pytest.mark.parametrize("text", ["nan%", "inf%", "-1", "x", "-0.1%"])
def test_a_limit_of_errors_that_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="max-errors"):
        parse_max_errors(text)


@pytest.mark.parametrize("split", [{"train": float("inf")}, {"train": 1e308, "val": 1e308}])
def test_shares_beyond_measure_are_refused(split: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="--split"):
        ConvertOptions(split=split)


def test_a_shard_size_beyond_any_disk_is_refused() -> None:
    with pytest.raises(ConfigError, match="--shard-size"):
        ConvertOptions(shard_size_bytes=10**30)


def test_a_source_that_cannot_be_planned_leaves_the_output_free(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    source = tmp_path / "cut.json"
    source.write_text('[{"id": 1, "conversations": ')
    with pytest.raises(RecordError):
        convert(source, tmp_path / "images", tmp_path / "out")
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]
    source.write_text(json.dumps([{"id": 1, "conversations": turns}]))
    assert convert(source, tmp_path / "images", tmp_path / "out").samples == 1


def test_an_output_below_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = tmp_path / "source.json"
    source.write_text("[1]")
    with pytest.raises(ConfigError, match="--out"):
        convert(source, tmp_path, tmp_path / "file" / "out")


def test_resume_does_not_pass_a_finished_dataset_off_as_another_ones(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]
    source, other = tmp_path / "one.json", tmp_path / "two.json"
    source.write_text(json.dumps([{"id": 1, "conversations": turns}]))
    other.write_text(json.dumps([{"id": 2, "conversations": turns}]))
    out = tmp_path / "out"
    convert(source, tmp_path, out)
    assert convert(source, tmp_path, out, ConvertOptions(resume=True)).samples == 1
    with pytest.raises(ConfigError, match="another source"):
        convert(other, tmp_path, out, ConvertOptions(resume=True))
    with pytest.raises(ConfigError, match="another shuffle"):
        convert(source, tmp_path, out, ConvertOptions(resume=True, shuffle=1))


def test_a_split_whose_every_record_is_rejected_is_told_until_it_is_filled(tmp_path: Path) -> None:
    rows = [record(f"{n}") for n in range(20)]
    split = {"train": 0.5, "val": 0.5}
    whole = convert_in(tmp_path / "whole", rows, split=split)
    (path,) = whole.out.glob("val-*.tar")
    with tarfile.open(path) as tar:
        lost = {int(name[:9]) for name in tar.getnames()}
    rows = [record(f"{n}", "lost.jpg" if n in lost else "good.jpg") for n in range(20)]
    converted = convert_in(tmp_path / "lost", rows, split=split)
    assert converted.report.warnings["empty_split"] == 1
    assert converted.report.warning_examples["empty_split"] == ["val"]
    (tmp_path / "lost" / "images" / "lost.jpg").write_bytes(picture())
    report = retry(converted.out / "quarantine.jsonl")
    assert "empty_split" not in {**report.warnings, **report.warning_examples}
    assert report.splits == whole.report.splits


def test_no_shard_exceeds_its_size_however_long_the_paths_of_images(tmp_path: Path) -> None:
    name = "a/longer/path/than/most/others/have/just/because/it/can/good.png"
    rows = [
        record(f"{n}", [name] * (1 + n % 3), conversations=turns("<image>" * (1 + n % 3), "a" * n))
        for n in range(400)
    ]
    images = {name: picture(4, 4, "PNG")}
    for number, size in enumerate((19_999, 20_000, 200_000)):
        whole = convert_in(tmp_path / f"{number}", rows, images, shard_size_bytes=size)
        sizes = [path.stat().st_size for path in whole.out.glob("*.tar")]
        assert max(sizes) <= size and sum(sizes) > 0.5 * size * len(sizes)
