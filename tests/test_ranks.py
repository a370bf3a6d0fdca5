"""Ranks share an epoch: disjoint, complete, as many batches each, and refused where they cannot."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed
from loader_help import conversations, keys_of, module

from neva_prep.errors import ConfigError
from neva_prep.loaders.ranks import DataParallel, check_batch_sizes, find_data_parallel


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversations(tmp_path_factory.mktemp("ranks") / "ds", train=122, val=11)


def rank(path: Path, number: int, size: int, **options: Any) -> Any:
    return module(path, data_parallel_rank=number, data_parallel_size=size, **options)


def an_epoch(data: Any, samples: int) -> list[str]:
    """Keys of the next samples; batches may cut the last one short or long."""
    found: list[str] = []
    stream = data.train_dataloader()
    while len(found) < samples:
        found += next(stream)["__keys__"]
    return found


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_train_on_disjoint_shares_that_make_the_whole(
    size: int, num_workers: int, dataset: Path
) -> None:
    seen: list[set[str]] = []
    for number in range(size):
        options = {"global_batch_size": 8, "num_workers": num_workers, "share_shards": True}
        with rank(dataset, number, size, **options) as data:
            # Each worker repeats its own share: two epochs of it show it whole.
            seen.append(set(an_epoch(data, 2 * 122 // size + 8)))
    assert set.union(*seen) == {f"{n:09d}" for n in range(122)}
    assert sum(map(len, seen)) == 122


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_val_workers", [0, 2])
def test_ranks_make_as_many_batches_and_validate_each_sample_once(
    size: int, packed: bool, num_val_workers: int, dataset: Path
) -> None:
    passes = []
    for number in range(size):
        options = {"packed": packed, "num_val_workers": num_val_workers, "global_batch_size": 8}
        with rank(dataset, number, size, **options) as data:
            passes.append(list(data.val_dataloader()))
    assert len({len(batches) for batches in passes}) == 1
    together = Counter(key for batches in passes for key in keys_of(batches))
    assert together == Counter(f"{n:09d}" for n in range(122, 133))
    blank = [batch for batches in passes for batch in batches if not batch["__keys__"]]
    for batch in blank:
        assert (batch["labels"] == -100).all() and batch["loss_mask"].sum() == 0


def test_some_rank_needs_a_blank_batch(dataset: Path) -> None:
    """11 samples are 3, 3, 3 and 2 of four ranks, in batches of 2: 2, 2, 2 and 1."""
    blanks = 0
    for number in range(4):
        with rank(dataset, number, 4, global_batch_size=8) as data:
            blanks += sum(not batch["__keys__"] for batch in data.val_dataloader())
    assert blanks == 1


def test_too_few_shards_are_refused_with_the_numbers_that_work(dataset: Path) -> None:
    def refused(ranks: int, **options: Any) -> str:
        with rank(dataset, 0, ranks, **options) as data, pytest.raises(ConfigError) as caught:
            data.train_dataloader()
        return str(caught.value)

    assert (
        "has 8 shards for 16 readers (4 ranks x 4 workers); num_workers=2, or converting again "
        "with --shard-count 7 or less" in refused(4, num_workers=4, global_batch_size=8)
    )
    with rank(dataset, 0, 4, num_workers=2, global_batch_size=8) as data:
        data.train_dataloader()
    found = refused(16, num_workers=1, global_batch_size=32)
    assert "16 workers" not in found and "converting again with --shard-count 7 or less" in found


def test_too_few_samples_are_refused(dataset: Path) -> None:
    few = r"11 samples for 16 readers .* use num_workers=2"
    with (
        rank(dataset, 0, 4, num_val_workers=4, global_batch_size=8) as data,
        pytest.raises(ConfigError, match=few),
    ):
        data.val_dataloader()


@pytest.mark.parametrize(
    ("micro", "whole", "ranks", "expected"), [(1, 16, 1, 16), (2, 16, 4, 2), (4, 4, 1, 1)]
)
def test_micro_batches_of_a_step(micro: int, whole: int, ranks: int, expected: int) -> None:
    assert check_batch_sizes(micro, whole, ranks) == expected


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is no multiple of micro_batch_size=2 x 3 .* 18 is"):
        check_batch_sizes(2, 16, 3)


def test_rank_and_size_as_given() -> None:
    assert find_data_parallel(1, 4) == DataParallel(rank=1, size=4)
    assert find_data_parallel() == DataParallel()
    with pytest.raises(ConfigError, match="give both"):
        find_data_parallel(1, None)
    with pytest.raises(ConfigError, match="ranks are 0 to size - 1"):
        find_data_parallel(4, 4)
    with pytest.raises(ConfigError, match=r"torch.distributed is not initialized"):
        find_data_parallel(group="a group")


def test_rank_and_size_of_megatron_if_it_is_initialized(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(
        model_parallel_is_initialized=lambda: True,
        get_data_parallel_rank=lambda: 2,
        get_data_parallel_world_size=lambda: 3,
        get_data_parallel_group=lambda: "group",
    )
    monkeypatch.setitem(sys.modules, "megatron.core.parallel_state", state)
    assert find_data_parallel() == DataParallel(rank=2, size=3, group="group")
    state.model_parallel_is_initialized = lambda: False
    assert find_data_parallel() == DataParallel()


def test_rank_and_size_of_torch_distributed(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        assert find_data_parallel() == DataParallel(rank=0, size=1)
        assert find_data_parallel(0, 1, None) == DataParallel(rank=0, size=1)
    finally:
        torch.distributed.destroy_process_group()
