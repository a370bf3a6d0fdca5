"""The contract with energon, webdataset and datasets: what they make and read is what we write.

The energon side is the pinned `energon prepare` on a copy of the same tars.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from small_source import fix_images, run, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.retry import retry
from neva_prep.loaders.format import ENERGON_VERSION

RECORDS = 40
BAD = (8, 9, 11, 12, 13, 20, 26)
"""Records without their image: 8 to 13 fill a whole shard with the text-only 10 left out."""
COMPARED = (".info.json", "split.yaml", "dataset.yaml")


def _convert(root: Path) -> Path:
    source, images = write_source(root, RECORDS, bad=BAD)
    rows = json.loads(source.read_text())
    del rows[10]["conversations"]
    source.write_text(json.dumps(rows))
    # Six records a shard, so that the shard of records 8 to 13 comes out empty.
    options = ConvertOptions(shard_count=2, split={"train": 0.6, "val": 0.3, "test": 0.1})
    convert(source, images, root / "out", options)
    return root / "out"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three splits, whose numbers have a gap."""
    return _convert(tmp_path_factory.mktemp("converted"))


@pytest.fixture(scope="module")
def retried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, after a --retry of four of the rejected records."""
    out = _convert(tmp_path_factory.mktemp("retried"))
    fix_images(out.parent / "pictures", BAD[:4])
    report = retry(out / "quarantine.jsonl")
    assert report.rejected == len(BAD) + 1 - 4
    return out


@pytest.fixture(params=["converted", "retried"])
def dataset(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def _prepare(dataset: Path, folder: Path) -> Path:
    """What energon makes of the same tars, asked for the splits in the order of their names."""
    folder.mkdir()
    for tar in dataset.glob("*.tar"):
        shutil.copy(tar, folder)
    energon = Path(sys.executable).with_name("energon")
    splits = [f"--split-parts={name}:{name}-.*" for name in ("test", "train", "val")]
    command = [energon, "prepare", "--non-interactive", *splits]
    command += ["--sample-type", "CrudeWebdataset", "--num-workers", "1", folder]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


def _rows(dataset: Path, query: str) -> list[Any]:
    with sqlite3.connect(dataset / ".nv-meta" / "index.sqlite") as database:
        return database.execute(query).fetchall()


def test_the_numbers_of_shards_have_a_gap_where_all_records_were_rejected(converted: Path) -> None:
    numbers = sorted(int(tar.stem[-6:]) for tar in converted.glob("train-*.tar"))
    assert len(numbers) < numbers[-1] + 1
    assert numbers[0] == 0


def test_the_index_is_what_energon_prepare_makes(dataset: Path, tmp_path: Path) -> None:
    theirs = _prepare(dataset, tmp_path / "theirs")
    names = sorted(path.name for path in dataset.glob("*.idx"))
    assert names == sorted(path.name for path in theirs.glob("*.idx"))
    for name in names:
        assert (dataset / name).read_bytes() == (theirs / name).read_bytes()
    for name in COMPARED:
        ours = (dataset / ".nv-meta" / name).read_text()
        assert ours == (theirs / ".nv-meta" / name).read_text()
    for table in ("samples", "sample_parts"):
        query = f"SELECT rowid, * FROM {table} ORDER BY rowid"
        rows = _rows(dataset, query)
        assert rows and rows == _rows(theirs, query)
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    assert [_normal(row) for row in _rows(dataset, schema)] == [
        _normal(row) for row in _rows(theirs, schema)
    ]
    assert {path.name for path in (dataset / ".nv-meta").iterdir()} == {
        path.name for path in (theirs / ".nv-meta").iterdir()
    }


def _normal(row: tuple[str | None, ...]) -> list[str]:
    """A row of the schema, whatever its white space."""
    return ["".join((cell or "").split()) for cell in row]


def test_the_energon_that_is_compared_with_is_the_one_that_is_named() -> None:
    from importlib.metadata import version

    assert version("megatron-energon") == ENERGON_VERSION


def _expected(dataset: Path) -> dict[str, dict[str, bytes]]:
    """Key -> part name -> bytes, read from the tars with tarfile."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(dataset.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, part = member.name.partition(".")
                content = tar.extractfile(member)
                assert content is not None
                found.setdefault(f"{path.name.partition('-')[0]}/{key}", {})[part] = content.read()
    return found


def test_images_are_the_files_and_records_lose_nothing(dataset: Path) -> None:
    source = json.loads((dataset.parent / "llava.json").read_text())
    samples = _expected(dataset)
    rejected = [json.loads(line) for line in (dataset / "quarantine.jsonl").open()]
    assert len(samples) + len(rejected) == RECORDS
    assert {int(key.partition("/")[2]) for key in samples} | {row["index"] for row in rejected} == {
        *range(RECORDS)
    }
    counts = set()
    for key, parts in samples.items():
        record = json.loads(parts["json"])
        images = record.pop("images")
        assert record == source[int(key.partition("/")[2])]
        counts.add(len(images))
        paths = record.get("image", [])
        paths = [paths] if isinstance(paths, str) else paths
        assert [image["source"] for image in images] == paths
        assert list(parts) == [*(image["name"] for image in images), "json"]
        for image in images:
            file = dataset.parent / "pictures" / image["source"]
            assert parts[image["name"]] == file.read_bytes()
    assert counts == {0, 1, 2}
    for row in rejected:
        assert row["record"] == source[row["index"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_energon_reads_every_sample_once(retried: Path, workers: int) -> None:
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.flavors.crude import CrudeSample

    @stateless  # type: ignore[untyped-decorator]
    def cook(sample: Any) -> Any:
        return CrudeSample({**basic_sample_keys(sample), **sample})

    class TaskEncoder(DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (Cooker(cook),)
        decoder = None

    expected = _expected(retried)
    for split in ("train", "val", "test"):
        loader = get_loader(
            get_train_dataset(
                retried,
                split_part=split,
                worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
                batch_size=None,
                shuffle_buffer_size=None,
                max_samples_per_sequence=None,
                shuffle_over_epochs_multiplier=None,
                parallel_shard_iters=1,
                repeat=False,
                task_encoder=TaskEncoder(),
            ),
            watchdog_timeout_seconds=None,
        )
        samples = iter(loader)
        found = [
            (
                f"{split}/{sample['__key__'].rpartition('/')[2]}",
                {name: sample[name] for name in sample if not name.startswith("__")},
            )
            for sample in samples
        ]
        samples.close()
        assert len(found) == len(dict(found)) > 0
        assert dict(found) == {key: expected[key] for key in expected if key.startswith(split)}


@pytest.mark.parametrize("workers", [0, 2])
def test_open_dataset_reads_every_sample_once(retried: Path, workers: int) -> None:
    from neva_prep.loaders import open_dataset

    expected = _expected(retried)
    for split in ("train", "val", "test"):
        keys = [sample.key for sample in open_dataset(retried, split=split, num_workers=workers)]
        assert sorted(f"{split}/{key}" for key in keys) == sorted(
            key for key in expected if key.startswith(split)
        )


def test_webdataset_reads_the_same_members(dataset: Path) -> None:
    import webdataset

    for split in ("train", "val"):
        shards = [str(path) for path in sorted(dataset.glob(f"{split}-*.tar"))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples = list(webdataset.WebDataset(shards, shardshuffle=False))
        found = {
            f"{split}/{sample['__key__']}": {
                name: sample[name] for name in sample if not name.startswith("__")
            }
            for sample in samples
        }
        expected = _expected(dataset)
        assert len(samples) == len(found)
        assert found == {key: expected[key] for key in expected if key.startswith(split)}


def test_datasets_streams_the_shards(tmp_path: Path) -> None:
    import datasets

    source, images = write_source(tmp_path, 3)
    convert(source, images, tmp_path / "out", ConvertOptions(shard_count=2))
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    stream = datasets.load_dataset(
        "webdataset", data_files=shards, split="train", streaming=True
    ).decode(False)
    rows = list(stream)
    assert [row["__key__"] for row in rows] == ["000000000", "000000001", "000000002"]
    for row in rows:
        assert row["json"]["id"] == f"id-{int(row['__key__'])}"
        assert row["000.jpg"]["bytes"] == (images / row["json"]["image"]).read_bytes()


def test_the_command_makes_the_same_dataset_as_energon_prepare_finds_whole(tmp_path: Path) -> None:
    source, images = write_source(tmp_path, 3)
    assert run("convert", source, "--images", images, "--out", tmp_path / "out").returncode == 0
    info = json.loads((tmp_path / "out" / ".nv-meta" / ".info.json").read_text())
    assert info == {"energon_version": ENERGON_VERSION, "shard_counts": {"train-000000.tar": 3}}
