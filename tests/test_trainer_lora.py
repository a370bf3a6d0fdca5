"""Adapters: what they reach, what stays as it is, merging, and PEFT's own reading of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from trainer_help import TINY, one_rank, packed_batch, padded_batch

from neva_prep.errors import ConfigError
from neva_prep.loaders.batch import Batch
from neva_prep.trainer import NevaConfig, expand_batch
from neva_prep.trainer.adapter import write_adapter
from neva_prep.trainer.adapter_read import read_adapter
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.hf_write import write_hf_folder
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.merge import merge, unmerge, without_adapters
from neva_prep.trainer.optimizer import OptimizerSettings
from neva_prep.trainer.step import train_step

IMAGE = 120
LANGUAGE = [f"*.language_model.*.linear_{name}" for name in ("qkv", "proj", "fc1", "fc2")]
"""NeMo's, of its recipes."""


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


def build(peft: LoRA | None, config: NevaConfig = TINY) -> Training:
    torch.manual_seed(3)
    return build_training(config, peft=peft, optimizer=OptimizerSettings(lr=1e-2))


def train(training: Training, steps: int = 2) -> None:
    for _ in range(steps):
        train_step(
            training,
            iter([padded_batch(), packed_batch()]),
            num_micro_batches=2,
            seq_length=256,
            micro_batch_size=4,
        )


def logits(model: Any, batch: Batch | None = None) -> Tensor:
    expanded = expand_batch(batch or padded_batch(), num_image_embeddings_per_tile=16)
    with torch.no_grad():
        found: Tensor = model(**expanded.model_inputs() | {"labels": None})
    return found


def named(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def adapted(model: Any) -> set[str]:
    return {n.removesuffix(".lora_a") for n, _ in model.named_parameters() if n.endswith("lora_a")}


def stir(model: Any) -> None:
    """Adapters far from where they start."""
    torch.manual_seed(7)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)


def test_fresh_adapters_change_nothing_and_keep_all_names() -> None:
    plain, model = build(None).chunks[0], build(LoRA(dim=4)).chunks[0]
    ours, theirs = named(model), named(plain)
    assert {name for name in ours if ".lora_" not in name} == theirs.keys()
    assert all(torch.equal(weight, ours[name]) for name, weight in theirs.items())
    assert torch.equal(logits(model), logits(plain))
    keys = {entry.key for entry in sharded(model)}
    assert keys >= {entry.key for entry in sharded(plain)}
    assert {key.rpartition(".")[2] for key in keys} >= {"lora_a", "lora_b"}


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


# PEFT


def their_logits(theirs: Any, batch: Batch) -> Tensor:
    expanded = expand_batch(batch, num_image_embeddings_per_tile=16)
    ids = expanded.input_ids.where(expanded.image_index < 0, IMAGE)
    with torch.no_grad():
        found: Tensor = theirs(input_ids=ids, pixel_values=expanded.media).logits
    return found


def assert_same(ours: Any, theirs: Any) -> None:
    batch = padded_batch(count=3)
    found = their_logits(theirs, batch)
    mine = logits(ours, batch)
    assert (mine - found).abs().max() <= 2e-5 * found.abs().max()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "hf"
    write_hf_folder(build(None).chunks[0], folder, files=folder)
    return folder


def load_base(folder: Path) -> Any:
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(folder).eval()


def test_peft_reads_what_is_written(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = build(LoRA(dim=4, alpha=12)).chunks[0].eval()
    stir(model)
    write_adapter([model], tmp_path, base_model=str(base))
    theirs = load_base(base)
    plain = their_logits(theirs, padded_batch(count=3))
    theirs = PeftModel.from_pretrained(theirs, tmp_path)
    assert_same(model, theirs)
    assert not torch.allclose(logits(model, padded_batch(count=3)), plain, atol=1e-3)
    merged = theirs.merge_and_unload()
    merge([model])
    assert_same(model, merged)


def test_a_trained_projector_comes_with_its_adapters(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    training = build(LoRA(dim=4, target_modules=LANGUAGE, freeze_vision_projection=False))
    train(training)
    model = training.chunks[0].eval()
    write_adapter([model], tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["modules_to_save"] == ["multi_modal_projector"]
    assert_same(model, PeftModel.from_pretrained(load_base(base), tmp_path))
    again = build(None).chunks[0].eval()
    read_adapter([again], tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    model, again = build(LoRA(dim=4, alpha=12)).chunks[0].eval(), build(None).chunks[0].eval()
    stir(model)
    write_adapter([model], tmp_path, dropout=0.25)
    assert set(read_adapter([again], tmp_path)) == adapted(model) == adapted(again)
    ours, theirs = named(again), named(model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    assert torch.equal(logits(again), logits(model))
    assert all(w.requires_grad == (".lora_" in n) for n, w in again.named_parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]},
        {"target_modules": ["q_proj", "v_proj", "fc2"], "use_rslora": True},
        {
            "target_modules": ["q_proj", "up_proj", "o_proj"],
            "rank_pattern": {"o_proj": 2},
            "alpha_pattern": {"up_proj": 5},
        },
        {"target_modules": ["linear_1"], "modules_to_save": ["vision_tower"]},
    ],
)
def test_adapters_that_peft_trained_are_read(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Where each of q, k and v has an A of its own, or only some are adapted."""
    from peft import LoraConfig, get_peft_model

    theirs = get_peft_model(load_base(base), LoraConfig(r=3, lora_alpha=7, **settings)).eval()
    torch.manual_seed(1)
    for weight in theirs.parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn_like(weight) * 0.1)
    theirs.save_pretrained(str(tmp_path))
    ours = build(None).chunks[0].eval()
    plain = logits(ours, padded_batch(count=3))
    assert read_adapter([ours], tmp_path)
    assert_same(ours, theirs)
    assert (logits(ours, padded_batch(count=3)) - plain).abs().max() > 1e-2


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = build(LoRA(dim=2, target_modules=LANGUAGE)).chunks[0]
    with pytest.raises(ConfigError, match="no adapters to write"):
        write_adapter([build(None).chunks[0].requires_grad_(False)], tmp_path)
    write_adapter([model], tmp_path)
    small = replace(
        TINY, language_transformer_config=replace(TINY.language_transformer_config, num_layers=2)
    )
    with pytest.raises(ConfigError, match=r"layers\.2.*belongs to another model"):
        read_adapter([build(None, small).chunks[0]], tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    for change, message in (({"use_dora": True}, "DoRA"), ({"peft_type": "IA3"}, "IA3")):
        path.write_text(json.dumps(settings | change))
        with pytest.raises(ConfigError, match=f"has {message}, and only plain LoRA"):
            read_adapter([build(None).chunks[0]], tmp_path)
    path.write_text(json.dumps(settings))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="has one of lora_A and lora_B"):
        read_adapter([build(None).chunks[0]], tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="is no adapter of PEFT"):
        read_adapter([build(None).chunks[0]], tmp_path)


def test_what_the_format_cannot_hold_is_not_written(tmp_path: Path) -> None:
    whole = build(LoRA(dim=2, target_modules=LANGUAGE, freeze_language_model=False)).chunks[0]
    with pytest.raises(ConfigError, match="language model's own weights; export the model"):
        write_adapter([whole], tmp_path)
    both = build(LoRA(dim=2, freeze_vision_model=False)).chunks[0]
    with pytest.raises(ConfigError, match="vision_tower: has adapters and is trained, too"):
        write_adapter([both], tmp_path)
