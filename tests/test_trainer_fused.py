"""The fused decoder is megatron-core's, in losses and in gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from trainer_help import TINY, TINY_LANGUAGE, TINY_VISION, one_rank, packed_batch, padded_batch

from neva_prep.errors import ConfigError
from neva_prep.trainer import ComputeConfig, NevaConfig, ParallelConfig
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.fp8 import rounded
from neva_prep.trainer.hf_config import resolve
from neva_prep.trainer.language_config import RopeScaling
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.step import train_step
from neva_prep.trainer.vision import build_vision_encoder

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
ACTIVATIONS: dict[str, Any] = {
    "clip": "quick_gelu",
    "siglip": "gelu_tanh",
    "internvit": "gelu",
}
VISIONS = {
    family: replace(
        TINY_VISION,
        family=family,
        add_class_token=family != "siglip",
        activation=ACTIVATIONS[family],
    )
    for family in ("clip", "siglip", "internvit")
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


@pytest.mark.parametrize("family", ["clip", "siglip", "internvit"])
def test_a_frozen_vision_encoder_gives_the_same(family: str) -> None:
    vision = VISIONS[family]
    config = replace(TINY, vision_transformer_config=vision)
    one_rank()
    encoders = [
        build_vision_encoder(resolve(config), ParallelConfig(), ComputeConfig(fused=fused))
        for fused in (False, True)
    ]
    encoders[1].load_state_dict(encoders[0].state_dict())
    encoders[1].requires_grad_(False)
    pixels = torch.randn(3, 3, vision.img_h, vision.img_w)
    plain, fused = (encoder(pixels) for encoder in encoders)
    assert plain.std() > 0.1
    assert torch.allclose(plain, fused, rtol=1e-5, atol=1e-5)
    # What is trained must have its gradients.
    encoders[1].requires_grad_(True)
    encoders[1](pixels).sum().backward()
    assert encoders[1].decoder.layers[0].mlp.linear_fc1.weight.grad is not None


def test_the_fused_decoder_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    training = build(TINY, None, fused=True)
    decoder = training.chunks[0].language_model.decoder
    monkeypatch.setattr(decoder, "forward", lambda *a, **k: pytest.fail("called"))
    step(training, [packed_batch()])


def test_eight_bits_need_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="fp8: needs a GPU"):
        build(TINY, None, precision="fp8")


def test_rounded_rows_are_near_and_keep_their_largest() -> None:
    x = torch.randn(7, 33) * torch.logspace(-3, 3, 7)[:, None]
    rows, scales = rounded(x)
    back = rows.float() * scales
    assert torch.allclose(back.abs().amax(1), x.abs().amax(1))
    # Three bits of mantissa round by a sixteenth at most, small values by a step of the scale.
    assert ((back - x).abs() <= x.abs() / 16 + scales * 2**-9).all()


def test_a_model_that_it_cannot_run_is_refused() -> None:
    nemotron = replace(TINY_LANGUAGE, gated_linear_unit=False, activation="squared_relu")
    config = replace(TINY, language_transformer_config=nemotron)
    with pytest.raises(ConfigError, match="fused"):
        build(config, None, fused=True)


def test_layers_that_are_computed_again_drop_the_same() -> None:
    peft = LoRA(dim=4, dropout=0.5)
    _, expected = step(build(TINY, peft, fused=True), [packed_batch()])
    _, found = step(build(TINY, peft, fused=True, recompute="full"), [packed_batch()])
    for name, gradient in expected.items():
        assert torch.allclose(gradient, found[name], rtol=1e-5, atol=1e-7), name
