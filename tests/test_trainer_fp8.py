"""Products in 8 bits: which layers make them, and what is refused. Numbers are in test_gpu.py."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trainer_help import TINY, TINY_LANGUAGE, one_rank, packed_batch

from neva_prep.errors import ConfigError
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.compat import prepare_megatron
from neva_prep.trainer.engine_product import EngineProduct, has_transformer_engine
from neva_prep.trainer.fp8_layer import check_something_rounded, multiply_in_eight_bits
from neva_prep.trainer.fused.product import Plain
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.optimizer import parts_with_weights
from neva_prep.trainer.step import evaluate_step


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


@pytest.fixture
def without_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neva_prep.trainer.fp8_layer.has_transformer_engine", lambda: False)


def build(**language: Any) -> Training:
    config = replace(TINY, language_transformer_config=replace(TINY_LANGUAGE, **language))
    return build_training(config, peft=LoRA(dim=4, target_modules=["*.linear_qkv"]))


class Counted(Plain):
    """A frozen weight that tells how often it multiplies."""

    calls: list[str] = []  # noqa: RUF012

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append("frozen")
        return super().forward(x)


def test_each_product_of_the_decoder_is_made_by_what_is_put_in() -> None:
    training = build()
    chunk, calls = training.chunks[0], Counted.calls
    calls.clear()
    settings: Any = {"num_micro_batches": 1, "seq_length": 256, "micro_batch_size": 4}
    before = evaluate_step(training, iter([packed_batch()]), **settings)
    chunk.language_model.decoder.layers[0].mlp.linear_fc1.requires_grad_(True)

    def trained() -> Any:
        def multiply(x: Tensor, weight: Tensor) -> Tensor:
            calls.append("trained")
            return F.linear(x, weight)

        return multiply

    def frozen(layer: Any) -> Counted | None:
        return None if layer.weight.requires_grad else Counted(layer.weight)

    multiply_in_eight_bits(chunk.language_model.decoder, frozen, trained)
    after = evaluate_step(training, iter([packed_batch()]), **settings)
    assert before is not None and after is not None and after.loss == before.loss
    assert sorted(calls) == ["frozen"] * (4 * 4 - 1) + ["trained"]
    assert chunk.state_dict().keys() == build().chunks[0].state_dict().keys()


def test_sides_that_cannot_be_multiplied_are_refused() -> None:
    training = build(ffn_hidden_size=100)
    decoder = training.chunks[0].language_model.decoder
    with pytest.raises(ConfigError, match=r"linear_fc1 is 200 x 64 on a rank.*multiples of 16"):
        multiply_in_eight_bits(decoder, lambda layer: None, None)


def test_eight_bits_of_nothing_are_refused(without_engine: None) -> None:
    decoder = build().chunks[0].language_model.decoder
    check_something_rounded([decoder])
    decoder.requires_grad_(True)
    with pytest.raises(ConfigError, match="all weights of the decoder are trained"):
        check_something_rounded([decoder])


@pytest.fixture
def without_fakes() -> Iterator[None]:
    """Modules of Transformer Engine that a test imports are forgotten behind it."""
    before = {name: module for name, module in sys.modules.items() if _is_engine(name)}
    yield
    _forget_engine()
    sys.modules.update(before)


def _is_engine(name: str) -> bool:
    return name.partition(".")[0] == "transformer_engine"


def _forget_engine() -> None:
    for name in list(filter(_is_engine, sys.modules)):
        del sys.modules[name]


def test_an_old_or_broken_transformer_engine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_fakes: None
) -> None:
    """One that is found as any module is."""
    check = has_transformer_engine.__wrapped__
    package = tmp_path / "transformer_engine"
    monkeypatch.syspath_prepend(tmp_path)

    def install(version: str, torch_part: str) -> None:
        _forget_engine()
        shutil.rmtree(package, ignore_errors=True)
        package.mkdir()
        (package / "__init__.py").write_text(f"__version__ = {version!r}")
        (package / "pytorch.py").write_text(torch_part)
        importlib.invalidate_caches()

    install("2.8.1", "")
    with pytest.raises(ConfigError, match=r"2\.8\.1 is installed, and 2\.9"):
        check()
    install("2.10.0+cu13", "import a_library_that_is_missing")
    with pytest.raises(ConfigError, match=r"cannot be imported .*a_library_that_is_missing"):
        check()
    install("2.10.0+cu13", "")
    assert check()


def test_rows_are_filled_up_for_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes multiples of 16; what it gives for the filling is cut off."""
    seen = []

    def linear(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return F.linear(x, weight)

    weight = torch.randn(32, 16)
    product = EngineProduct()
    monkeypatch.setattr(product, "_on_engine", lambda x, given: linear(x))
    for rows in (1, 16, 37):
        x = torch.randn(rows, 16)
        assert torch.allclose(product(x, weight), F.linear(x, weight), atol=1e-5)
    assert seen == [(16, 16), (16, 16), (48, 16)]


def test_the_optimizer_is_torchs_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Transformer Engine is: megatron-core takes its Adam, and says so by these names."""
    from megatron.core import optimizer

    monkeypatch.setattr(optimizer, "Adam", object)
    monkeypatch.setattr(optimizer, "USING_PYTORCH_OPTIMIZER", False)
    prepare_megatron()
    (part,) = parts_with_weights(build().optimizer)
    assert type(part.optimizer) is torch.optim.AdamW
