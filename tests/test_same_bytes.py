"""The bytes of a dataset depend on its source, options and seed, and on nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_source import run, tree, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions

BAD = (5, 11, 33)
OPTIONS: dict[str, Any] = {"shard_count": 7, "split": {"train": 0.7, "val": 0.3}, "shuffle": 42}
FLAGS = ("--shard-count", "7", "--split", "train=0.7,val=0.3", "--shuffle", "42")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """60 records, of which 3 are rejected."""
    return write_source(tmp_path_factory.mktemp("source"), 60, bad=BAD)


@pytest.fixture(scope="module")
def once(source: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of a conversion by one worker through the Python interface."""
    out = tmp_path_factory.mktemp("once") / "out"
    report = convert(*source, out, ConvertOptions(**OPTIONS))
    assert (report.samples, report.rejected, len(report.splits)) == (57, 3, 2)
    assert report.shards > 8
    return tree(out)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_writes_the_same_bytes(
    source: tuple[Path, Path], once: dict[str, str], tmp_path: Path, workers: int
) -> None:
    convert(*source, tmp_path / "out", ConvertOptions(**OPTIONS, workers=workers))
    assert tree(tmp_path / "out") == once


def test_the_command_writes_the_same_bytes_as_the_function(
    source: tuple[Path, Path], once: dict[str, str], tmp_path: Path
) -> None:
    ended = run("convert", source[0], "--images", source[1], "--out", tmp_path / "out", *FLAGS)
    assert ended.returncode == 4, ended.stderr
    assert tree(tmp_path / "out") == once


def test_the_same_bytes_from_any_working_folder_and_with_any_hash_seed(
    source: tuple[Path, Path], once: dict[str, str], tmp_path: Path
) -> None:
    for number, (folder, seed) in enumerate(((source[0].parent, "1"), (tmp_path, "2"))):
        given = [os.path.relpath(path, folder) for path in (*source, tmp_path / f"out{number}")]
        ended = run(
            *("convert", given[0], "--images", given[1], "--out", given[2], *FLAGS),
            cwd=folder,
            PYTHONHASHSEED=seed,
            TZ="Pacific/Auckland" if number else "UTC",
            LC_ALL="C",
        )
        assert ended.returncode == 4, ended.stderr
        assert tree(tmp_path / f"out{number}") == once


def test_the_same_bytes_when_files_are_younger_or_lie_elsewhere(
    once: dict[str, str], source: tuple[Path, Path], tmp_path: Path
) -> None:
    elsewhere, images = write_source(tmp_path / "elsewhere", 60, bad=BAD)
    os.utime(elsewhere, (1, 1))
    convert(elsewhere, images, tmp_path / "out", ConvertOptions(**OPTIONS))
    now = tree(tmp_path / "out")
    # These say where the images lie, for --retry and in the messages: nothing else may differ.
    differing = [name for name in once if now.get(name) != once[name]]
    assert differing == ["neva-prep.json", "quarantine.jsonl"]
    manifest = json.loads((tmp_path / "out" / "neva-prep.json").read_text())
    assert manifest["source"].pop("images") == str(images)


def test_what_a_reader_does_with_a_dataset_leaves_its_bytes_alone(
    source: tuple[Path, Path], once: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(*source, out, ConvertOptions(**OPTIONS))
    again = ("convert", source[0], "--images", source[1], "--resume", *FLAGS, "--out", out)
    codes = [run(*command).returncode for command in (("inspect", out), ("verify", out), again)]
    assert codes == [0, 0, 4]
    assert tree(out) == once


@pytest.mark.parametrize(
    "change", [{"shuffle": 43}, {"shuffle": None}, {"shard_count": 8}, {"limit": 59}]
)
def test_another_option_writes_other_bytes(
    source: tuple[Path, Path], once: dict[str, str], tmp_path: Path, change: dict[str, Any]
) -> None:
    convert(*source, tmp_path / "out", ConvertOptions(**{**OPTIONS, **change}))
    now = tree(tmp_path / "out")
    assert {n: now[n] for n in now if n.endswith(".tar")} != {
        n: once[n] for n in once if n.endswith(".tar")
    }


def test_overwriting_leaves_nothing_of_what_was_there(
    source: tuple[Path, Path], once: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(*source, out, ConvertOptions(shard_count=1, split={"val": 1, "test": 1}))
    assert (out / "test-000003.tar").exists()
    convert(*source, out, ConvertOptions(**OPTIONS, overwrite=True))
    assert tree(out) == once
