"""The fused decoder is megatron-core's, in losses and in gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from trainer_help import TINY, TINY_LANGUAGE, one_rank, packed_batch, padded_batch

from neva_prep.errors import ConfigError
from neva_prep.trainer import ComputeConfig, NevaConfig
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.language_config import RopeScaling
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.step import train_step

LANGUAGES = {
    "llama2": TINY_LANGUAGE,
    "llama3": replace(
        TINY_LANGUAGE,
        rope_scaling=RopeScaling(original_max_position_embeddings=64),
    ),
    "mistral": replace(TINY_LANGUAGE, window_size=9),
    "qwen2": replace(TINY_LANGUAGE, add_qkv_bias=True, share_embeddings_and_output_weights=True),
    "part": replace(TINY_LANGUAGE, rotary_percent=0.5),
}
PEFT = {
    "all": None,
    "lora": LoRA(dim=4, alpha=6),
    "lora and projector": LoRA(dim=4, freeze_vision_projection=False),
}


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


def build(config: NevaConfig, peft: LoRA | None, **compute: Any) -> Training:
    one_rank(3)
    training = build_training(config, compute=ComputeConfig(**compute), peft=peft)
    with torch.no_grad():
        for name, weight in training.chunks[0].named_parameters():
            # Adapters that change nothing yet would hide what is wrong with them.
            if name.endswith("lora_b"):
                weight.copy_(torch.linspace(-0.05, 0.05, weight.numel()).view_as(weight))
    for part in getattr(training.optimizer, "chained_optimizers", [training.optimizer]):
        part.reload_model_params()
    return training


def step(training: Training, batches: list[Any]) -> tuple[float, dict[str, Tensor]]:
    one_rank(5)
    result = train_step(
        training,
        iter(batches),
        num_micro_batches=len(batches),
        seq_length=256,
        micro_batch_size=4,
    )
    found = {
        name: weight.main_grad.clone()
        for name, weight in training.chunks[0].named_parameters()
        if weight.requires_grad
    }
    return result.loss, found


def compare(config: NevaConfig, peft: LoRA | None, batches: list[Any], **compute: Any) -> None:
    loss, gradients = step(build(config, peft, fused=False), batches)
    fused = build(config, peft, fused=True, **compute)
    fused_loss, fused_gradients = step(fused, batches)
    assert fused_loss == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == fused_gradients.keys()
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        assert float((gradient - fused_gradients[name]).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("make", [padded_batch, packed_batch])
def test_families_train_as_with_megatron_core(language: str, make: Any) -> None:
    config = replace(TINY, language_transformer_config=LANGUAGES[language])
    compare(config, None, [make()])


@pytest.mark.parametrize("peft", PEFT)
@pytest.mark.parametrize("make", [padded_batch, packed_batch])
def test_adapters_train_as_with_megatron_core(peft: str, make: Any) -> None:
    compare(TINY, PEFT[peft], [make(), make(seed=7)])


def test_adapters_drop_what_they_drop_with_megatron_core() -> None:
    compare(TINY, LoRA(dim=4, dropout=0.5), [packed_batch()])


@pytest.mark.parametrize("peft", ["all", "lora"])
def test_layers_that_are_computed_again_train_the_same(peft: str) -> None:
    compare(TINY, PEFT[peft], [packed_batch()], recompute="full")


def test_projector_alone_trains_as_with_megatron_core() -> None:
    config = replace(TINY, freeze_language_model=True, freeze_vision_model=True)
    compare(config, None, [packed_batch()])


def test_the_fused_decoder_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    training = build(TINY, None, fused=True)
    decoder = training.chunks[0].language_model.decoder
    monkeypatch.setattr(decoder, "forward", lambda *a, **k: pytest.fail("called"))
    step(training, [packed_batch()])


def test_a_model_that_it_cannot_run_is_refused() -> None:
    nemotron = replace(TINY_LANGUAGE, gated_linear_unit=False, activation="squared_relu")
    config = replace(TINY, language_transformer_config=nemotron)
    with pytest.raises(ConfigError, match="fused"):
        build(config, None, fused=True)
