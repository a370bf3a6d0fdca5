"""Adapters: what they reach, what stays as it is, and merging."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from lora_help import LANGUAGE, adapted, build, logits, named, stir, train
from trainer_help import TINY, one_rank

from neva_prep.errors import ConfigError
from neva_prep.trainer import NevaModel
from neva_prep.trainer.lora import LoRA, add_lora
from neva_prep.trainer.merge import merge, unmerge, without_adapters


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


def test_fresh_adapters_change_nothing_and_keep_all_names() -> None:
    plain, model = build(None).chunks[0], build(LoRA(dim=4)).chunks[0]
    ours, theirs = named(model), named(plain)
    assert {name for name in ours if ".lora_" not in name} == theirs.keys()
    assert all(torch.equal(weight, ours[name]) for name, weight in theirs.items())
    assert torch.equal(logits(model), logits(plain))
    keys = {entry.key for entry in sharded(model)}
    assert keys >= {entry.key for entry in sharded(plain)}
    assert {key.rpartition(".")[2] for key in keys} >= {"lora_a", "lora_b"}


def test_a_seed_draws_adapters_whatever_was_drawn_before() -> None:
    def drawn_by(seed: int) -> dict[str, torch.Tensor]:
        model = NevaModel(TINY).build()
        add_lora([model], LoRA(dim=4), seed=seed)
        return named(model)

    one, other, again = drawn_by(1), drawn_by(2), drawn_by(1)
    drawn = [name for name in one if name.endswith(".lora_a")]
    assert drawn
    assert all(torch.equal(one[name], again[name]) for name in drawn)
    assert not any(torch.equal(one[name], other[name]) for name in drawn)
    # Layers of one shape differ, too.
    first, second = [name for name in drawn if "language" in name and "qkv" in name][:2]
    assert not torch.equal(one[first], one[second])


def sharded(model: Any) -> list[Any]:
    found = model.sharded_state_dict()
    return [entry for entry in found.values() if hasattr(entry, "key")]


def test_training_moves_adapters_and_leaves_every_other_bit() -> None:
    training = build(LoRA(dim=4, target_modules=LANGUAGE))
    before = named(training.chunks[0])
    train(training)
    for name, weight in named(training.chunks[0]).items():
        assert torch.equal(weight, before[name]) == (".lora_" not in name), name


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["linear_qkv"], lambda name: name.endswith("linear_qkv")),
        (
            ["*.language_model.*.linear_qkv"],
            lambda name: name.startswith("language") and name.endswith("linear_qkv"),
        ),
        (["*.language_model.*.layers.3.*"], lambda name: "language_model.decoder.layers.3" in name),
        (["*.vision_projection.*"], lambda name: name.startswith("vision_projection")),
    ],
)
def test_patterns_reach_what_they_name(patterns: list[str], expected: Any) -> None:
    model = build(LoRA(target_modules=patterns, dim=2)).chunks[0]
    linear = {n for n, m in model.named_modules() if n.rpartition(".")[2].startswith("linear_")}
    found = adapted(model)
    assert found
    assert found == {name for name in linear if expected(name)}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'linear_q' matches no layer.* linear_fc1, linear_fc2"):
        build(LoRA(target_modules=["linear_qkv", "linear_q"]))
    with pytest.raises(ConfigError, match="give a list"):
        LoRA(target_modules="linear_qkv")
    with pytest.raises(ConfigError, match="dim=0"):
        LoRA(dim=0)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("in_config", [True, False])
def test_freeze_vision_model_does_what_it_says(frozen: bool, in_config: bool) -> None:
    """Whatever the model's config says, which NeMo lets win."""
    config = replace(TINY, freeze_vision_model=in_config)
    training = build(LoRA(target_modules=LANGUAGE, freeze_vision_model=frozen), config)
    before = named(training.chunks[0].vision_model)
    train(training, steps=1)
    after = named(training.chunks[0].vision_model)
    changed = [name for name, weight in after.items() if not torch.equal(weight, before[name])]
    assert len(changed) == (0 if frozen else len(after))


def test_dropout_is_of_adapters_and_only_in_training() -> None:
    model = build(LoRA(dim=4, dropout=0.5)).chunks[0]
    stir(model)
    model.eval()
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))
    plain = build(LoRA(dim=4, dropout=0.5)).chunks[0].train()
    assert torch.equal(logits(plain), logits(plain))


def test_merged_adapters_give_the_same_numbers_and_come_out_again() -> None:
    model = build(LoRA(dim=4)).chunks[0].eval()
    stir(model)
    before, expected = named(model), logits(model)
    merge([model])
    merge([model])
    assert torch.allclose(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(
        model.language_model.decoder.layers[0].mlp.linear_fc1.weight,
        before["language_model.decoder.layers.0.mlp.linear_fc1.weight"],
    )
    unmerge([model])
    assert all(torch.equal(weight, before[name]) for name, weight in named(model).items())
    assert torch.equal(logits(model), expected)


def test_a_model_without_its_adapters_is_a_plain_one() -> None:
    plain, model = build(None).chunks[0].eval(), build(LoRA(dim=4)).chunks[0].eval()
    stir(model)
    expected = logits(model)
    without_adapters([model])
    assert named(model).keys() == named(plain).keys()
    assert {type(m) for m in model.modules()} == {type(m) for m in plain.modules()}
    assert torch.allclose(logits(model), expected, rtol=1e-5, atol=1e-5)
