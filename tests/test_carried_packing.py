"""Packs through energon: what a buffer leaves over is carried on, and nothing is lost by it."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from handmade import members, write_dataset
from loader_help import keys_of, module

BUFFER = 48


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 texts of 35 to 150 tokens, in no order; 100 of them for validation."""

    def sample(number: int) -> Any:
        return members(number, images=0, text=f"Why {'so ' * (3 + number * 37 % 113)}?")

    names = [f"{number:09d}" for number in range(600)]
    shards = {
        "train-000000.tar": {name: sample(int(name)) for name in names[:500]},
        "val-000000.tar": {name: sample(int(name)) for name in names[500:]},
    }
    return write_dataset(tmp_path_factory.mktemp("packing") / "shards", shards)


def fill(batch: Any) -> float:
    return int(batch["packed_seq_params"].cu_seqlens_q[-1]) / 256


def test_no_pack_is_less_full_because_a_buffer_ended(dataset: Path) -> None:
    with module(dataset, packed=True, packing_buffer_size=BUFFER) as data:
        fills = [fill(batch) for batch in islice(data.train_dataloader(), 300)]
    # Four epochs and 20 buffers; one pack at the end of each would be about half full.
    assert min(fills) > 0.9
    assert sum(fills) / len(fills) > 0.995


@pytest.mark.parametrize("buffer", [1, 2, 3, BUFFER, 1000])
def test_a_pass_gives_every_sample_once(dataset: Path, buffer: int) -> None:
    with module(dataset, packed=True, packing_buffer_size=buffer) as data:
        keys = keys_of(data.val_dataloader())
    assert sorted(keys) == [f"{number:09d}" for number in range(500, 600)]


def test_epochs_follow_each_other_whole(dataset: Path) -> None:
    with module(dataset, packed=True, packing_buffer_size=BUFFER) as data:
        seen: Counter[str] = Counter()
        for batch in data.train_dataloader():
            seen.update(batch["__keys__"])
            if sum(seen.values()) > 1500 + 2 * BUFFER:
                break
    # What still waits, or was drawn early by the shuffle, makes a difference of one.
    assert len(seen) == 500
    assert set(seen.values()) <= {2, 3, 4}
