"""Adapters in PEFT's format: PEFT reads ours, and we read what it trained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_help import LANGUAGE, adapted, build, logits, named, stir, train
from safetensors.torch import load_file, save_file
from torch import Tensor
from trainer_help import TINY, one_rank, padded_batch

from neva_prep.errors import ConfigError
from neva_prep.loaders.batch import Batch
from neva_prep.trainer import HFCLIPVisionConfig, expand_batch
from neva_prep.trainer.adapter import write_adapter
from neva_prep.trainer.adapter_read import read_adapter
from neva_prep.trainer.hf_files import canonical
from neva_prep.trainer.hf_write import write_hf_folder
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.merge import merge

IMAGE = 120


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


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
    again = build(LoRA(dim=4, target_modules=LANGUAGE)).chunks[0].eval()
    read_adapter([again], tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_a_trained_vision_encoder_comes_with_the_layers_behind_its_features(
    base: Path, tmp_path: Path
) -> None:
    """PEFT takes all weights of a module that is saved, or refuses the adapter."""
    from peft import PeftModel

    lora = LoRA(dim=4, target_modules=LANGUAGE, freeze_vision_model=False)
    training = build(lora)
    train(training)
    model = training.chunks[0].eval()
    write_adapter([model], tmp_path / "made")
    theirs = PeftModel.from_pretrained(load_base(base), tmp_path / "made")
    assert_same(model, theirs)
    again = build(LoRA(dim=4, target_modules=LANGUAGE)).chunks[0].eval()
    read_adapter([again], tmp_path / "made")
    assert torch.equal(logits(again), logits(model))

    unused = {
        canonical(name): torch.randn_like(weight)
        for name, weight in load_file(base / "model.safetensors").items()
        if "vision_model.encoder.layers.2." in name or "post_layernorm" in name
    }
    assert len(unused) == 18
    save_file(unused | {"rotary.inv_freq": torch.ones(2)}, tmp_path / "unused.safetensors")
    write_adapter([model], tmp_path / "kept", files=tmp_path)
    weights = load_file(tmp_path / "kept" / "adapter_model.safetensors")
    found = {canonical(name.removeprefix("base_model.model.")): w for name, w in weights.items()}
    assert all(torch.equal(found[name], weight) for name, weight in unused.items())
    assert "rotary.inv_freq" not in found
    assert_same(model, PeftModel.from_pretrained(load_base(base), tmp_path / "kept"))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    model, again = (build(LoRA(dim=4, alpha=12)).chunks[0].eval() for _ in range(2))
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
    # Three adapters of rank 3 are one of 9; the tenth row is to spare.
    ours = build(LoRA(dim=10, alpha=20)).chunks[0].eval()
    plain = logits(ours, padded_batch(count=3))
    assert read_adapter([ours], tmp_path)
    assert_same(ours, theirs)
    assert (logits(ours, padded_batch(count=3)) - plain).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "named", "is_their_tower"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["gate_proj"]}, "mlp.gate_proj", False),
        ({"target_modules": ["q_proj", "patch_embedding"]}, "embeddings.patch_embedding", False),
        ({"target_modules": ["q_proj"]}, "vision_tower.encoder.layers.0.self_attn.q_proj", True),
    ],
)
def test_what_our_layers_cannot_take_of_an_adapter_is_refused(
    base: Path, tmp_path: Path, settings: dict[str, Any], named: str, is_their_tower: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(load_base(base), LoraConfig(r=2, **settings)).save_pretrained(str(tmp_path))
    neva = TINY
    if is_their_tower:
        tower = HFCLIPVisionConfig(pretrained_model_name_or_path=str(base), shape=TINY.vision_shape)
        neva = replace(TINY, vision_transformer_config=tower)
    ours = build(LoRA(dim=8), neva).chunks[0]
    with pytest.raises(ConfigError, match=rf"{re.escape(named)}.*merge the adapter"):
        read_adapter([ours], tmp_path)


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    lora = LoRA(dim=2, target_modules=LANGUAGE)
    model = build(lora).chunks[0]
    with pytest.raises(ConfigError, match="no adapters to write"):
        write_adapter([build(None).chunks[0].requires_grad_(False)], tmp_path)
    write_adapter([model], tmp_path)
    small = replace(
        TINY, language_transformer_config=replace(TINY.language_transformer_config, num_layers=2)
    )
    with pytest.raises(ConfigError, match=r"layers\.2.*belongs to another model"):
        read_adapter([build(lora, small).chunks[0]], tmp_path)
    narrow = replace(lora, dim=1)
    with pytest.raises(ConfigError, match=r"takes 2 rows, and the recipe's have 1; set peft.dim=2"):
        read_adapter([build(narrow).chunks[0]], tmp_path)
    fewer = replace(lora, target_modules=["*.language_model.*.linear_qkv"])
    with pytest.raises(ConfigError, match=r"add linear_\w+ to peft.target_modules"):
        read_adapter([build(fewer).chunks[0]], tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    for change, message in (({"use_dora": True}, "DoRA"), ({"peft_type": "IA3"}, "IA3")):
        path.write_text(json.dumps(settings | change))
        with pytest.raises(ConfigError, match=f"has {message}, and only plain LoRA"):
            read_adapter([build(lora).chunks[0]], tmp_path)
    path.write_text(json.dumps(settings))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="has one of lora_A and lora_B"):
        read_adapter([build(lora).chunks[0]], tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="is no adapter of PEFT"):
        read_adapter([build(lora).chunks[0]], tmp_path)


def test_what_the_format_cannot_hold_is_not_written(tmp_path: Path) -> None:
    whole = build(LoRA(dim=2, target_modules=LANGUAGE, freeze_language_model=False)).chunks[0]
    with pytest.raises(ConfigError, match="language model's own weights; export the model"):
        write_adapter([whole], tmp_path)
    both = build(LoRA(dim=2, freeze_vision_model=False)).chunks[0]
    with pytest.raises(ConfigError, match="vision_tower: has adapters and is trained, too"):
        write_adapter([both], tmp_path)
