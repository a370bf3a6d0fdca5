"""A step on one rank: which loss, what is refused, and what is left alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from loader_help import conversations, encoder, module
from parallel_cases import CONFIG, fold
from torch import Tensor
from trainer_help import TINY, one_rank, packed_batch, padded_batch

from neva_prep.errors import TrainingError
from neva_prep.loaders import ImageConfig
from neva_prep.loaders.batch import Batch
from neva_prep.trainer import ComputeConfig, ParallelConfig, expand_batch
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.megatron_config import language_transformer
from neva_prep.trainer.optimizer import OptimizerSettings
from neva_prep.trainer.step import StepResult, evaluate_step, train_step


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


def build(**settings: Any) -> Training:
    torch.manual_seed(3)
    return build_training(settings.pop("config", TINY), **settings)


def step(training: Training, batches: list[Batch]) -> StepResult:
    return train_step(
        training,
        iter(batches),
        num_micro_batches=len(batches),
        seq_length=256,
        micro_batch_size=4,
    )


def gradients(training: Training) -> dict[str, Tensor]:
    return {
        name: weight.main_grad.clone()
        for name, weight in training.chunks[0].named_parameters()
        if weight.requires_grad
    }


def weights(training: Training) -> dict[str, Tensor]:
    return {n: w.detach().clone() for n, w in training.chunks[0].named_parameters()}


def test_the_loss_is_the_mean_over_all_tokens_of_all_micro_batches() -> None:
    training = build()
    batches = [padded_batch(count=1), padded_batch(count=4, seed=5)]
    total, count = 0.0, 0
    for batch in batches:
        expanded = expand_batch(batch, num_image_embeddings_per_tile=16)
        with torch.no_grad():
            losses = training.chunks[0](**expanded.model_inputs())
        total += float((losses * expanded.loss_mask).sum())
        count += int(expanded.loss_mask.sum())
    result = step(training, batches)
    assert result.num_trained_tokens == count
    assert result.loss == pytest.approx(total / count, rel=1e-6)


def test_packed_rows_train_as_padded_ones_do() -> None:
    training = build()
    fresh = {name: weight.clone() for name, weight in weights(training).items()}
    padded = step(training, [padded_batch()])
    of_padded = gradients(training)
    again = build()
    assert all(torch.equal(w, fresh[n]) for n, w in weights(again).items())
    packed = step(again, [packed_batch()])
    assert packed.loss == pytest.approx(padded.loss, rel=1e-5)
    assert packed.num_tokens == padded.num_tokens < padded.num_positions
    for name, gradient in gradients(again).items():
        assert (gradient - of_padded[name]).abs().max() <= 1e-5 * of_padded[name].abs().max(), name


def test_bytes_are_normalized_as_the_loaders_normalize(tmp_path: Any) -> None:
    path = conversations(tmp_path / "data")
    results = []
    for output in ("uint8", "float32"):
        images = ImageConfig(size=28, output=output)
        data = module(path, task_encoder=encoder(images=images))
        stream = iter(data.train_dataloader())
        batches = [fold(next(stream)) for _ in range(2)]
        data.close()
        assert sum(len(batch["media"]) for batch in batches)
        results.append(step(build(config=CONFIG), batches))
    assert results[0] == results[1]


def test_a_loss_that_is_not_finite_names_its_samples_and_changes_nothing() -> None:
    training = build()
    before = weights(training)
    bad = padded_batch()
    bad["media"] = torch.full_like(bad["media"], math.inf)
    bad["__keys__"] = ["broken-1", "broken-2"]
    with pytest.raises(TrainingError, match=r"broken-1, broken-2\. ") as raised:
        step(training, [padded_batch(), bad])
    assert "0000" not in str(raised.value)
    assert all(torch.equal(w, before[n]) for n, w in weights(training).items())


def test_gradients_that_are_not_finite_change_nothing() -> None:
    training = build()
    before = weights(training)
    norm = training.chunks[0].language_model.decoder.final_layernorm.weight
    handle = norm.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError, match=r"gradients are not finite .* 0000, 0001"):
        step(training, [padded_batch()])
    handle.remove()
    assert all(torch.equal(w, before[n]) for n, w in weights(training).items())


def test_a_step_without_trained_tokens_is_skipped() -> None:
    training = build()
    step(training, [padded_batch()])
    before = weights(training)
    blank = padded_batch()
    blank["labels"] = torch.full_like(blank["labels"], -100)
    result = step(training, [blank])
    assert result.skipped
    assert math.isnan(result.loss)
    assert all(torch.equal(w, before[n]) for n, w in weights(training).items())


def test_data_that_end_in_a_step_are_an_error() -> None:
    training = build()
    with pytest.raises(TrainingError, match="needs 3 batches of this rank and 2"):
        train_step(
            training,
            iter([padded_batch()] * 2),
            num_micro_batches=3,
            seq_length=256,
            micro_batch_size=4,
        )


def test_evaluation_changes_nothing_and_ends_with_the_data() -> None:
    training = build(peft=LoRA(dim=4, dropout=0.5))
    before = weights(training)
    stream = iter([padded_batch()] * 3)
    sizes = {"num_micro_batches": 2, "seq_length": 256, "micro_batch_size": 4}
    first, second = (evaluate_step(training, stream, **sizes) for _ in range(2))
    assert first and second
    assert first.loss == second.loss
    assert first.num_trained_tokens == 2 * second.num_trained_tokens
    assert evaluate_step(training, stream, **sizes) is None
    assert all(torch.equal(w, before[n]) for n, w in weights(training).items())


def test_norms_and_biases_do_not_decay() -> None:
    settings = OptimizerSettings(lr=0.5, weight_decay=0.5, eps=1e30)  # Adam's own part is nothing
    training = build(optimizer=settings)
    before = weights(training)
    step(training, [padded_batch()])
    for name, weight in weights(training).items():
        factor = 1.0 if weight.dim() == 1 else 0.75
        assert torch.allclose(weight, before[name] * factor), name


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputed_layers_train_adapters_behind_frozen_embeddings(recompute: Any) -> None:
    found = []
    for compute in (ComputeConfig(), ComputeConfig(recompute=recompute)):
        lora = LoRA(dim=4, target_modules=["*.language_model.*.linear_*"])
        training = build(compute=compute, peft=lora)
        for name, weight in training.chunks[0].named_parameters():
            if name.endswith("lora_b"):
                torch.nn.init.constant_(weight, 0.01)
        step(training, [padded_batch()])
        found.append(gradients(training))
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-5, atol=1e-7), name


def test_bfloat16_weights_have_float32_ones_that_small_steps_add_up_in() -> None:
    settings = OptimizerSettings(lr=1e-5, weight_decay=0.0)
    training = build(compute=ComputeConfig(precision="bf16"), optimizer=settings)
    first = [step(training, [padded_batch()]).loss for _ in range(8)]
    assert all(weight.dtype == torch.bfloat16 for weight in training.chunks[0].parameters())
    main = training.optimizer.param_groups[0]["params"][0]
    assert main.dtype == torch.float32
    assert math.isfinite(first[-1])
    name, weight = next(iter(training.chunks[0].named_parameters()))
    assert not torch.equal(weight.main_param.float(), weight.float()), name


def test_every_patch_sees_all_of_its_tile() -> None:
    """megatron-core's own layers for vision are causal, without a word."""
    model: Any = build().chunks[0]
    media = torch.randn(1, 3, 28, 28)
    changed = media.clone()
    changed[:, :, -7:, -7:] += 1.0
    with torch.no_grad():
        one, other = model.vision_model(media), model.vision_model(changed)
    assert ((one - other).abs().amax(-1) > 1e-4).all()


def test_a_virtual_pipeline_never_batches_its_sends() -> None:
    """With megatron-core's defaults its gradients are wrong, without a word."""
    parallel = ParallelConfig(
        pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2
    )
    config = language_transformer(TINY.language_transformer_config, parallel, ComputeConfig())
    assert config.overlap_p2p_comm
    assert not config.batch_p2p_comm
