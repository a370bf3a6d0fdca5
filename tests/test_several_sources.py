"""Several sources in one call: each a dataset, and one file that draws from them by weight."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from convert_help import files_of, make_source, record, run_cli, text_record
from handmade import picture
from killed import run_killed

from neva_prep.dataprep import sources as sources_module
from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.sources import Part, convert_several, parts_of, read_meta
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError, RecordError, ShardError


def two_sources(folder: Path) -> tuple[Path, Path]:
    """60 records with images, 20 of text alone; both files are named alike."""
    rows = [record(f"a{n}", f"{n % 3}.jpg") for n in range(60)]
    first = make_source(folder / "a", rows, {f"{n}.jpg": picture(30 + n, 20) for n in range(3)})
    second = make_source(folder / "b", [text_record(f"b{n}", f"{n}?", "!") for n in range(20)])
    return first, second


def arguments(folder: Path, *more: str | Path) -> list[str | Path]:
    first, second = two_sources(folder)
    images = ("--images", folder / "a" / "images", "--images", folder / "b" / "images")
    return ["convert", first, second, *images, "--out", folder / "out", *more]


def blend_of(out: Path, split: str = "train") -> dict[str, float]:
    config = yaml.safe_load((out / "metadataset.yaml").read_text())
    assert config["__class__"] == "MetadatasetV2"
    return {each["path"]: each["weight"] for each in config["splits"][split]["blend"]}


def without_index(folder: Path) -> dict[str, bytes]:
    """SQLite may lay the same rows out otherwise, and a UUID is new each time."""
    return {name: c for name, c in files_of(folder).items() if "index." not in name}


def test_each_source_becomes_the_dataset_that_it_would_be_alone(tmp_path: Path) -> None:
    done = run_cli(*arguments(tmp_path, "--weight", "1", "--weight", "0.5", "--shuffle", "3"))
    assert done.returncode == 0, done.stderr
    assert "Source 2 of 2" in done.stderr and "metadataset.yaml" in done.stdout
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "metadataset.yaml",
        "source",
        "source-2",
    ]
    assert blend_of(out) == {"./source": 1.0, "./source-2": 0.5}
    for name, folder in {"source": "a", "source-2": "b"}.items():
        alone = tmp_path / f"alone-{folder}"
        source, images = tmp_path / folder / "source.json", tmp_path / folder / "images"
        convert(source, images, alone, ConvertOptions(shuffle=3))
        assert without_index(out / name) == without_index(alone)
        assert verify(out / name).is_whole


def origins(stream: Any, batches: int) -> Counter[str]:
    return Counter(
        Path(origin).name for _ in range(batches) for origin in next(stream)["__origins__"]
    )


def test_our_data_module_draws_by_the_weights(tmp_path: Path) -> None:
    from loader_help import module

    parts = parts_of(two_sources(tmp_path), [], [1.0, 3.0])
    parts = [Part(**{**fields(part), "images": images_of(part)}) for part in parts]
    report = convert_several(parts, tmp_path / "out", ConvertOptions(split={"train": 3, "val": 1}))
    assert report.metadataset == tmp_path / "out" / "metadataset.yaml"
    with module(report.metadataset) as data:
        drawn = origins(data.train_dataloader(), 300)
        assert 0.70 < drawn["source-2"] / drawn.total() < 0.80, drawn
        kept = sum(each.splits["val"] for each in report.reports.values())
        assert 0 < kept < 40
        assert blend_of(tmp_path / "out", "val") == blend_of(tmp_path / "out")


def fields(part: Part) -> dict[str, Any]:
    return {name: getattr(part, name) for name in Part.__dataclass_fields__}


def images_of(part: Part) -> str:
    return str(Path(part.source).parent / "images")


def test_energon_itself_reads_the_same_shares(tmp_path: Path) -> None:
    from megatron.energon import WorkerConfig
    from megatron.energon.metadataset import load_dataset

    done = run_cli(*arguments(tmp_path, "--weight", "2", "--weight", "6"))
    assert done.returncode == 0, done.stderr
    loaded = load_dataset(tmp_path / "out" / "metadataset.yaml").get_datasets(
        training=True,
        split_part="train",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        decoder=None,
    )
    theirs = {Path(str(each.dataset.path)).name: each.weight for each in loaded.datasets}
    total = sum(theirs.values())
    assert {name: weight / total for name, weight in theirs.items()} == {
        "source": 0.25,
        "source-2": 0.75,
    }


def write_meta(folder: Path, **changes: Any) -> Path:
    two_sources(folder)
    meta = {
        "ocr/photos": {"root": "a/images", "annotation": "a/source.json", "repeat_time": 1},
        "chat": {"annotation": "b/source.json", "repeat_time": 2.5, "data_augment": False},
    }
    meta["chat"] |= changes
    meta["ocr/photos"] |= {"length": 60, "max_dynamic_patch": 12}
    path = folder / "meta.json"
    path.write_text(json.dumps(meta))
    return path


def test_a_meta_file_names_sources_and_how_often_each_is_drawn(tmp_path: Path) -> None:
    done = run_cli("convert", write_meta(tmp_path), "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1
    assert {name: each["samples"] for name, each in report["datasets"].items()} == {
        "ocr_photos": 60,
        "chat": 20,
    }
    # 60 once, 20 two and a half times.
    assert blend_of(tmp_path / "out") == {"./ocr_photos": 60.0, "./chat": 50.0}


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"annotation": "nowhere.jsonl"}, "'chat': 'nowhere.jsonl' lies neither beside"),
        ({"repeat_time": 0}, "'chat': 'repeat_time' is 0"),
        ({"repeat_time": "x"}, "'chat': .*float"),
        ({"root": "no/images"}, "'chat': 'no/images' lies neither"),
    ],
)
def test_a_broken_meta_file_names_the_entry(
    tmp_path: Path, changes: dict[str, Any], finding: str
) -> None:
    with pytest.raises(RecordError, match=finding):
        read_meta(write_meta(tmp_path, **changes))


def test_a_source_is_no_meta_file(tmp_path: Path) -> None:
    first, _ = two_sources(tmp_path)
    assert read_meta(first) is None and read_meta(tmp_path) is None
    (tmp_path / "one.json").write_text(json.dumps(text_record("a", annotation="x")))
    assert read_meta(tmp_path / "one.json") is None


def test_an_error_names_its_source_and_resume_goes_on_there(
    tmp_path: Path,
) -> None:
    command = arguments(tmp_path)
    good = (tmp_path / "b" / "source.json").read_bytes()
    (tmp_path / "b" / "source.json").write_bytes(good[:-30])
    done = run_cli(*command)
    assert done.returncode == 3
    assert f"source 2 of 2 ({tmp_path / 'b' / 'source.json'}): " in done.stderr
    out = tmp_path / "out"
    assert not (out / "metadataset.yaml").exists()
    first = files_of(out / "source")
    (tmp_path / "b" / "source.json").write_bytes(good)
    done = run_cli(*command)
    assert done.returncode == 2 and "holds unfinished datasets; go on with --resume" in done.stderr
    done = run_cli(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert files_of(out / "source") == first and verify(out / "source-2").is_whole
    assert blend_of(out) == {"./source": 1.0, "./source-2": 1.0}
    # Once more: nothing is left to do, and nothing changes.
    before = files_of(out)
    assert run_cli(*command, "--resume").returncode == 0 and files_of(out) == before


def test_a_conversion_cut_off_in_the_second_source_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(two_sources(tmp_path), [str(tmp_path / "a" / "images")], [])
    calls: list[str] = []

    def failing(source: Any, images: Any, out: Path, *rest: Any, **named: Any) -> Any:
        calls.append(out.name)
        if len(calls) == 2:
            raise ShardError("the disk is full")
        return convert(source, images, out, *rest, **named)

    monkeypatch.setattr(sources_module, "convert", failing)
    with pytest.raises(ShardError, match=r"source 2 of 2 \(.*source.json\): the disk is full"):
        convert_several(parts, tmp_path / "out")
    report = convert_several(parts, tmp_path / "out", ConvertOptions(resume=True))
    assert calls == ["source", "source-2", "source", "source-2"]
    assert [each.samples for each in report.reports.values()] == [60, 20]


def test_a_source_without_any_sample_is_told_and_blends_once_it_is_fixed(tmp_path: Path) -> None:
    first, second = two_sources(tmp_path)
    lost = tmp_path / "lost.json"
    lost.write_text(json.dumps([record("x", "late.jpg")]))
    images = [str(tmp_path / "a" / "images")]
    parts = parts_of([first, lost], images, [])
    with pytest.raises(RecordError, match=r"lost.json: all 1 records were rejected.*late.jpg"):
        convert_several(parts, tmp_path / "out")
    assert not (tmp_path / "out" / "metadataset.yaml").exists()
    (tmp_path / "a" / "images" / "late.jpg").write_bytes(picture())
    retry(tmp_path / "out" / "lost" / "quarantine.jsonl")
    convert_several(parts, tmp_path / "out", ConvertOptions(resume=True))
    assert blend_of(tmp_path / "out") == {"./source": 1.0, "./lost": 1.0}
    assert second.exists()


def test_a_retry_tells_of_the_blend_that_has_to_be_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    make_source(folder, [record("a"), record("b", "late.jpg"), record("c", "lost.jpg")])
    entry = {"root": "images", "annotation": "source.json", "repeat_time": 2}
    meta = folder / "meta.json"
    meta.write_text(json.dumps({"one": entry, "two": entry}))
    out = tmp_path / "out"
    convert_several(parts_of([meta], [], []), out)
    assert blend_of(out) == {"./one": 2.0, "./two": 2.0}
    quarantine = out / "one" / "quarantine.jsonl"
    assert "metadataset.yaml" not in run_cli("convert", "--retry", quarantine).stderr
    (folder / "images" / "late.jpg").write_bytes(picture())
    done = run_cli("convert", "--retry", quarantine)
    assert "metadataset.yaml: blends one as it was; the convert command that" in done.stderr
    convert_several(parts_of([meta], [], []), out, ConvertOptions(resume=True))
    assert blend_of(out) == {"./one": 4.0, "./two": 2.0}


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pair = two_sources(tmp_path)
    with pytest.raises(ConfigError, match="--weight is given 1 times for 2 sources"):
        parts_of(pair, [], [1.0])
    with pytest.raises(ConfigError, match="--images is given 3 times for 2 sources"):
        parts_of(pair, ["a", "b", "c"], [])
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="must be a number above 0"):
            parts_of(pair, [], [1.0, weight])
    with pytest.raises(ConfigError, match="names images and weights itself"):
        parts_of([write_meta(tmp_path)], ["a"], [])
    done = run_cli("convert", pair[0], "--weight", "2", "--out", tmp_path / "out")
    assert done.returncode == 2 and "--weight is for several SOURCEs" in done.stderr


def test_an_output_with_other_things_is_left_alone(tmp_path: Path) -> None:
    parts = parts_of(two_sources(tmp_path), [str(tmp_path / "a" / "images")], [])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"holds other files \(thesis.tex\)"):
        convert_several(parts, tmp_path / "out", ConvertOptions(overwrite=True))
    (tmp_path / "out" / "thesis.tex").unlink()
    convert_several(parts, tmp_path / "out")
    with pytest.raises(ConfigError, match="holds finished datasets"):
        convert_several(parts, tmp_path / "out")
    with pytest.raises(ConfigError, match="several sources need a folder"):
        convert_several(parts, Path("s3://bucket/out"))
    convert_several(parts, tmp_path / "out", ConvertOptions(overwrite=True))
    assert len(blend_of(tmp_path / "out")) == 2


def test_a_slip_in_an_overwrite_leaves_the_datasets_and_their_blend(tmp_path: Path) -> None:
    command = arguments(tmp_path)
    assert run_cli(*command).returncode == 0
    before = files_of(tmp_path / "out")
    assert run_cli(*command, "--overwrite", "--filter", "no_such_field > 1").returncode != 0
    assert files_of(tmp_path / "out") == before


def made_with(dataset: Path) -> str:
    """The seed of the shuffle that a whole dataset was made with."""
    if not (dataset / ".nv-meta/.info.json").exists():
        return "broken"
    return str(json.loads((dataset / "neva-prep.json").read_text())["options"]["shuffle"])


def blended_or_not(out: Path) -> str:
    """How the datasets of a folder were made, and whether they are blended."""
    seeds = [made_with(out / name) for name in ("source", "source-2")]
    is_blended = (out / "metadataset.yaml").exists()
    assert seeds in (["None"] * 2, ["3"] * 2) or not is_blended, seeds
    return f"{' '.join(seeds)}{' blended' if is_blended else ''}"


def test_an_overwrite_that_is_killed_leaves_no_blend_of_other_datasets(tmp_path: Path) -> None:
    parts = parts_of(two_sources(tmp_path), [str(tmp_path / "a" / "images")], [])
    old, out, paused = tmp_path / "old", tmp_path / "out", tmp_path / "paused"
    convert_several(parts, old)
    anew = ConvertOptions(shuffle=3, overwrite=True, workers=1)
    seen, step, killed = Counter[str](), 0, True
    while killed:
        step += 3
        shutil.copytree(old, out)
        killed = run_killed(step, lambda: convert_several(parts, out, anew))
        seen[blended_or_not(out)] += 1
        if (out / "source/.journal/replace").exists() and not paused.exists():
            shutil.copytree(out, paused)
        shutil.rmtree(out)
    # Planning takes some steps, during which the old ones are still blended.
    assert seen["None None blended"] > 2 and seen["3 None"] and seen["3 3 blended"], seen
    # What was killed in its planning goes on, and is killed again.
    assert blended_or_not(paused) == "None None blended"
    again, seen = replace(anew, overwrite=False, resume=True), Counter()
    for step in range(3, 40, 3):
        shutil.copytree(paused, out)
        assert run_killed(step, lambda: convert_several(parts, out, again))
        seen[blended_or_not(out)] += 1
        shutil.rmtree(out)
    assert seen["None None blended"] and seen["broken None"], seen


def test_a_dry_run_writes_nothing_and_quarantine_sets_the_exit_code(tmp_path: Path) -> None:
    command = arguments(tmp_path)
    (tmp_path / "a" / "images" / "0.jpg").unlink()
    done = run_cli(*command, "--dry-run", "--json")
    assert done.returncode == 4 and not (tmp_path / "out").exists()
    assert json.loads(done.stdout)["metadataset"] is None
    assert run_cli(*command).returncode == 4


def test_verify_reads_every_dataset_of_a_blend(tmp_path: Path) -> None:
    assert run_cli(*arguments(tmp_path)).returncode == 0
    out = tmp_path / "out"
    done = run_cli("verify", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["samples"], report["shards"], report["is_whole"]) == (80, 2, True)
    (shard,) = (out / "source-2").glob("*.tar")
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    found = verify(out)
    assert not found.is_whole and found.findings[0].file == f"source-2/{shard.name}"
    (out / "source" / "neva-prep.json").unlink()
    found = verify(out)
    assert "no neva-prep.json here" in found.findings[0].what and found.found >= 2


def test_verify_stays_in_the_folder_of_a_blend(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (out / "link").symlink_to(tmp_path / "elsewhere")
    for path, message in (
        ("../elsewhere", "lies outside the folder"),
        (str(tmp_path / "elsewhere"), "lies outside the folder"),
        ("./link", "lies outside the folder"),
        ("./gone", "is not there"),
    ):
        blend = {"splits": {"train": {"blend": [{"path": path, "weight": 1.0}]}}}
        (out / "metadataset.yaml").write_text(yaml.safe_dump(blend))
        with pytest.raises(ShardError, match=message):
            verify(out)
    (out / "metadataset.yaml").write_text("- 1\n")
    with pytest.raises(ShardError, match="names no datasets"):
        verify(out)


def test_tools_for_one_dataset_name_those_of_a_blend(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a", "b"):
        (out / name).mkdir(parents=True)
    blend = {"splits": {"train": {"blend": [{"path": f"./{name}"} for name in "ab"]}}}
    (out / "metadataset.yaml").write_text(yaml.safe_dump(blend))
    commands: list[list[str | Path]] = [
        ["inspect", out],
        ["stats", out],
        ["plan", out, "--gpus", "1"],
        ["diff", out, out / "a"],
        ["trace", out, "1"],
    ]
    for command in commands:
        done = run_cli(*command)
        assert done.returncode == 2, done.stderr
        assert f"give one of them: {out}/a, {out}/b" in done.stderr
