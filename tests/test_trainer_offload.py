"""A frozen vision encoder's weights rest in the computer's memory, and training does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainer_help import TINY, one_rank, padded_batch

from neva_prep.errors import ConfigError
from neva_prep.trainer import ComputeConfig
from neva_prep.trainer.build import build_training
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.offload import offload
from neva_prep.trainer.step import train_step


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


class Probe(nn.Module):
    """Tells which copy of its weight it runs with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0), requires_grad=False)
        self.seen = 0

    def forward(self, *, fails: bool = False) -> None:
        self.seen = self.weight.data_ptr()
        if fails:
            raise ValueError("as asked")


def test_a_copy_is_there_only_while_the_part_runs() -> None:
    probe = Probe()
    offload(probe, torch.device("cpu"))
    at_rest = probe.weight.data_ptr()
    for fails in (False, True):
        probe.seen = 0
        try:
            probe(fails=fails)
        except ValueError:
            assert fails
        assert probe.seen not in (0, at_rest)
        assert probe.weight.data_ptr() == at_rest
        assert torch.equal(probe.weight, torch.arange(4.0))


def test_a_weight_that_is_loaded_later_is_the_one_that_is_brought() -> None:
    probe = Probe()
    offload(probe, torch.device("cpu"))
    probe.load_state_dict({"weight": torch.ones(4)})
    probe()
    assert torch.equal(probe.weight, torch.ones(4))


def one_step(*, offloaded: bool, peft: LoRA | None) -> tuple[float, dict[str, Tensor]]:
    torch.manual_seed(3)
    training = build_training(
        replace(TINY, freeze_vision_model=True),
        compute=ComputeConfig(offload_vision=offloaded),
        peft=peft,
    )
    loss = train_step(
        training,
        iter([padded_batch()]),
        num_micro_batches=1,
        seq_length=256,
        micro_batch_size=4,
    ).loss
    return loss, {name: weight.detach() for name, weight in training.chunks[0].named_parameters()}


@pytest.mark.parametrize("peft", [None, LoRA(dim=4, target_modules=["*.language_model.*_qkv"])])
def test_steps_are_the_same(peft: Any) -> None:
    loss, weights = one_step(offloaded=False, peft=peft)
    found, theirs = one_step(offloaded=True, peft=peft)
    assert found == loss
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)


@pytest.mark.parametrize(
    ("frozen", "peft"), [(False, None), (True, LoRA(dim=4, target_modules=["linear_fc1"]))]
)
def test_a_trained_encoder_is_refused(frozen: bool, peft: Any) -> None:
    with pytest.raises(ConfigError, match=r"offload_vision: .* of the vision encoder is trained"):
        build_training(
            replace(TINY, freeze_vision_model=frozen),
            compute=ComputeConfig(offload_vision=True),
            peft=peft,
        )
