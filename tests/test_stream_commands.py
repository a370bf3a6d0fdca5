"""plan says what each rank reads; trace leads from a key back to the record and its bytes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.reading_plan import plan_reading
from neva_prep.dataprep.stream_commands import plan, trace
from neva_prep.errors import ConfigError
from neva_prep.loaders.ranks import split_evenly

TURNS = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """22 samples in 8 shards; record 5 is missing."""
    rows = [{"id": f"row-{i}", "conversations": TURNS[: 1 if i == 5 else 2]} for i in range(23)]
    (tmp_path / "source.json").write_text(json.dumps(rows))
    out = tmp_path / "shards"
    convert(tmp_path / "source.json", tmp_path, out, ConvertOptions(shard_count=3))
    return out


def test_plan_divides_samples_as_equally_as_they_go(dataset: Path) -> None:
    found = plan_reading(
        dataset,
        split="train",
        ranks=4,
        workers=2,
        micro_batch_size=1,
        global_batch_size=8,
        samples_per_second=20,
    )
    assert (found.samples, found.shards, found.samples_per_rank) == (22, 8, (5, 6))
    # The fullest rank reads 6 samples, 2 a step; equal shares of 6 would need 24.
    assert (found.steps_per_epoch, found.uneven_samples) == (3, 2)
    size = sum(path.stat().st_size for path in dataset.glob("*.tar"))
    assert found.megabytes_per_second == round(20 * size / 22 / 1e6, 3)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_shares_of_ranks_are_those_that_energon_deals(ranks: int, workers: int) -> None:
    from megatron.energon import WorkerConfig
    from megatron.energon.flavors.webdataset.sharder import Sharder

    for samples in (ranks * workers, 57, 1000, 1001, 1013):
        configs = [
            WorkerConfig(rank=rank, world_size=ranks, num_workers=workers) for rank in range(ranks)
        ]
        bounds = [Sharder.split_samples_to_workers(0, samples, config) for config in configs]
        assert split_evenly(samples, ranks, workers) == [b[-1] - b[0] for b in bounds], samples


def test_plan_lets_readers_share_the_shards_of_a_validation_split(tmp_path: Path) -> None:
    rows = [{"id": f"row-{number}", "conversations": TURNS} for number in range(40)]
    (tmp_path / "source.json").write_text(json.dumps(rows))
    options = ConvertOptions(split={"train": 0.5, "val": 0.5})
    convert(tmp_path / "source.json", tmp_path, tmp_path / "shards", options)
    for split, exit_code in (("val", 0), ("train", 1)):
        arguments = [str(tmp_path / "shards"), "--gpus", "2", "--workers", "2", "--split", split]
        assert CliRunner().invoke(plan, arguments).exit_code == exit_code, split


def test_plan_refuses_more_readers_than_shards_with_numbers_that_would_work(dataset: Path) -> None:
    result = CliRunner().invoke(plan, [str(dataset), "--gpus", "4", "--workers", "4"])
    assert isinstance(result.exception, ConfigError)
    assert "8 shards for 16 readers" in str(result.exception)
    assert "num_workers=2" in str(result.exception) and "--shard-count 1" in str(result.exception)


def test_plan_names_the_splits_there_are(dataset: Path) -> None:
    result = CliRunner().invoke(plan, [str(dataset), "--gpus", "1", "--split", "test"])
    assert isinstance(result.exception, ConfigError) and "only train" in str(result.exception)


def test_trace_leads_to_the_record_and_its_bytes(dataset: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 3, "loss": 1.5}\n{"step": 3, "__keys__": ["000000006"]}\nnoise\n')
    result = CliRunner().invoke(
        trace, [str(dataset), "22", "--log", str(log), "--step", "3", "--json"]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.output)["samples"]
    assert [(row["record"], row["id"], row["source"]) for row in rows] == [
        (22, "row-22", "source.json"),
        (6, "row-6", "source.json"),
    ]
    with tarfile.open(dataset / rows[1]["shard"]) as tar:
        assert tar.getmember("000000006.json").offset == rows[1]["offset"]


def test_trace_of_a_blend_keeps_to_the_samples_of_the_dataset(
    dataset: Path, tmp_path: Path
) -> None:
    """Datasets that were converted have the same keys, for other records."""
    from loader_help import module

    rows = [{"id": f"other-{i}", "conversations": TURNS} for i in range(23)]
    (tmp_path / "other.json").write_text(json.dumps(rows))
    other = tmp_path / "other"
    convert(tmp_path / "other.json", tmp_path, other, ConvertOptions(shard_count=3))
    data = module({str(dataset): 1, str(other): 1})
    log = tmp_path / "log.jsonl"
    with log.open("w") as file:
        for _, batch in zip(range(8), data.train_dataloader(), strict=False):
            row = {"step": 3} | {name: batch[name] for name in ("__keys__", "__origins__")}
            file.write(json.dumps(row) + "\n")
    data.close()
    ids = {}
    for path, begins in ((dataset, "row-"), (other, "other-")):
        result = CliRunner().invoke(trace, [str(path), "--log", str(log), "--step", "3", "--json"])
        assert result.exit_code == 0, result.output
        ids[path] = [row["id"] for row in json.loads(result.stdout)["samples"]]
        assert ids[path] and all(name.startswith(begins) for name in ids[path])
    assert f"{len(ids[dataset])} more samples are of {dataset}" in result.stderr
    samples = sum(len(json.loads(line)["__keys__"]) for line in log.read_text().splitlines())
    assert sum(map(len, ids.values())) == samples
    # A dataset that was moved is known by its name; one that was not read is refused.
    (tmp_path / "new").mkdir()
    moved = dataset.rename(tmp_path / "new" / dataset.name)
    result = CliRunner().invoke(trace, [str(moved), "--log", str(log), "--step", "3", "--json"])
    assert [row["id"] for row in json.loads(result.stdout)["samples"]] == ids[dataset]
    third = moved.rename(tmp_path / "third")
    result = CliRunner().invoke(trace, [str(third), "--log", str(log), "--step", "3"])
    assert isinstance(result.exception, ConfigError) and str(other) in str(result.exception)


@pytest.mark.parametrize("loss", ["NaN", "-Infinity", "null"])
def test_trace_finds_a_step_whose_loss_is_no_number(
    dataset: Path, tmp_path: Path, loss: str
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(f'{{"step": 3, "loss": {loss}, "__keys__": ["000000006"]}}\nNaN\n[NaN\n')
    result = CliRunner().invoke(trace, [str(dataset), "--log", str(log), "--step", "3"])
    assert result.exit_code == 0 and "id row-6" in result.output


def test_trace_says_when_a_key_or_a_step_is_not_there(dataset: Path, tmp_path: Path) -> None:
    assert isinstance(CliRunner().invoke(trace, [str(dataset), "5"]).exception, ConfigError)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "__keys__": ["0"]}\n')
    log = ["--log", str(tmp_path / "log.jsonl"), "--step", "2"]
    assert isinstance(CliRunner().invoke(trace, [str(dataset), *log]).exception, ConfigError)


@pytest.mark.parametrize(
    "options",
    [
        ("--samples-per-second", "-5"),
        ("--samples-per-second", "0"),
        ("--samples-per-second", "nan"),
        ("--samples-per-second", "inf"),
        ("--global-batch-size", "0"),
        ("--micro-batch-size", "-1"),
        ("--workers", "-1"),
    ],
)
def test_plan_refuses_numbers_without_sense(dataset: Path, options: tuple[str, str]) -> None:
    result = CliRunner().invoke(plan, [str(dataset), "--gpus", "1", *options])
    assert result.exit_code == 2 or isinstance(result.exception, ConfigError)
    assert options[0] in f"{result.output}{result.exception}"
