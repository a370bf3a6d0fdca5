"""Datasets without index.sqlite: streamed as ever, and honest about what needs the index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from convert_help import run_cli
from small_source import tree, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.task import convert_task, parse_task
from neva_prep.dataprep.verify import verify
from neva_prep.errors import ConfigError

OPTIONS: dict[str, Any] = {"shard_count": 8, "split": {"train": 0.7, "val": 0.3}}
INDEX = ".nv-meta/index.sqlite"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_source(tmp_path_factory.mktemp("source"), 42, bad=(4,))


@pytest.fixture(scope="module")
def without(given: tuple[Path, Path]) -> Iterator[Path]:
    out = given[0].parent / "without"
    convert(*given, out, ConvertOptions(**OPTIONS, sample_index=False))
    yield out


def test_all_else_has_the_same_bytes(
    given: tuple[Path, Path], without: Path, tmp_path: Path
) -> None:
    convert(*given, tmp_path / "with", ConvertOptions(**OPTIONS))
    expected, found = tree(tmp_path / "with"), tree(without)
    assert expected.keys() - found.keys() == {INDEX}
    differing = {name for name in found if found[name] != expected[name]}
    assert differing == {"neva-prep.json"}


def test_the_journal_of_a_shard_does_not_grow_with_its_samples(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    sizes = []
    for index in (True, False):
        out = tmp_path / str(index)
        options = ConvertOptions(**OPTIONS, sample_index=index)
        convert_task(*given, out, options, parse_task("0/1"))
        sizes.append((out / ".journal" / "train-000000.tar.json").stat().st_size)
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_is_streamed_once(without: Path, workers: int) -> None:
    from neva_prep.loaders import open_dataset

    found = [
        sample.key
        for split in ("train", "val")
        for sample in open_dataset(without, split=split, num_workers=workers)
    ]
    assert sorted(found) == [f"{number:09d}" for number in range(42) if number != 4]


def test_verify_knows_and_still_finds_damage(without: Path, tmp_path: Path) -> None:
    assert verify(without).is_whole
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in without.rglob("*"):
        if path.is_file():
            (damaged / path.relative_to(without)).parent.mkdir(exist_ok=True)
            (damaged / path.relative_to(without)).write_bytes(path.read_bytes())
    (damaged / INDEX).write_bytes(b"")
    tar = damaged / "train-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"What is", b"What it"))
    report = verify(damaged)
    files = {finding.file for finding in report.findings}
    assert files == {INDEX, tar.name}
    assert any("says that none was made" in finding.what for finding in report.findings)


def test_what_needs_the_index_says_so(without: Path) -> None:
    with pytest.raises(ConfigError, match="--retry needs the index"):
        retry(without / "quarantine.jsonl")
    done = run_cli("inspect", without, "--key", "000000001")
    assert done.returncode != 0
    assert "--no-sample-index" in done.stderr and "Traceback" not in done.stderr
