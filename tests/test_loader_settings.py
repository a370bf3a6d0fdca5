"""Settings that cannot work are refused where they are given, not by the first batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loader_help import conversations, encoder, module

from neva_prep.errors import ConfigError
from neva_prep.loaders import MultiModalSampleConfig

WORDS = {
    "image_placement": "must be one of keep, front",
    "special_text": "must be one of escape, error",
    "overflow": "must be one of error, drop_last_turns, truncate_answer",
}


@pytest.mark.parametrize("name", WORDS)
def test_a_word_that_is_no_choice_is_refused_at_once(name: str) -> None:
    options: dict[str, Any] = {name: "x"}
    with pytest.raises(ConfigError, match=f"{name}='x': {WORDS[name]}"):
        encoder(**options)


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("packed", [False, True])
def test_a_packing_buffer_of_nothing_is_refused_at_once(packed: bool, size: int) -> None:
    with pytest.raises(ConfigError, match=f"packing_buffer_size={size}: must be 1 or more"):
        module("nowhere", packed=packed, packing_buffer_size=size)


PACKS: dict[str, tuple[dict[str, Any], str]] = {
    "filled": ({"pad_packs": True, "pack_alignment": 60}, "240 is a multiple of it"),
    "too short": ({"pack_alignment": 257}, "no more than a pack, or no sample fits"),
    "no number": ({"pack_alignment": 0}, "must be 1 or more"),
}


@pytest.mark.parametrize("name", PACKS)
def test_packs_that_do_not_fit_their_alignment_are_refused_at_once(name: str) -> None:
    options, message = PACKS[name]
    with pytest.raises(ConfigError, match=message):
        encoder(True, **options)


def test_a_repeated_batch_has_the_label_of_no_loss_that_is_set(tmp_path: Path) -> None:
    path = conversations(tmp_path / "ds", val=7)
    made = encoder(config=MultiModalSampleConfig(ignore_place_holder=-1))
    blanks = []
    for rank in range(3):
        ranks: dict[str, Any] = {
            "data_parallel_rank": rank,
            "data_parallel_size": 3,
            "global_batch_size": 6,
        }
        with module(path, task_encoder=made, **ranks) as data:
            blanks += [batch for batch in data.val_dataloader() if not batch["__keys__"]]
    assert blanks
    assert all(torch.equal(b["labels"], torch.full_like(b["labels"], -1)) for b in blanks)
