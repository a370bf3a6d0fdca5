"""Numbers on a GPU: kernels, attention and steps give what float32 and plain torch give."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from parallel_cases import CORE, LAYOUTS, ON_A_GPU, RANKS
from test_trainer_parallel import check_differences, run_ranks
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from trainer_help import TINY, TINY_LANGUAGE, one_rank, packed_batch, padded_batch

from neva_prep.trainer import ComputeConfig
from neva_prep.trainer import step as step_module
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.engine_product import EngineProduct, has_transformer_engine
from neva_prep.trainer.fused import plain
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.merge import adapted_layers, merge, unmerge
from neva_prep.trainer.step import evaluate_step, train_step
from neva_prep.trainer.weights import load_weights, save_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SMALL = replace(
    TINY,
    language_transformer_config=replace(
        TINY_LANGUAGE,
        hidden_size=256,
        ffn_hidden_size=400,
        num_attention_heads=4,
        num_query_groups=2,
    ),
)
"""Heads of 64 channels, as kernels want them."""
ROUNDING = 1e-2
"""Of the largest number: bfloat16 has 8 bits of mantissa."""


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    one_rank()
    yield


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 1) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed + sum(shape))
    return torch.randn(*shape, device="cuda", generator=generator).to(dtype)


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    assert found.shape == expected.shape
    expected = expected.float()
    return float((found.float() - expected).abs().max() / expected.abs().max())


# Kernels.


@pytest.mark.parametrize("rank", [4, 32, 48])
@pytest.mark.parametrize("tokens", [1, 1000])
def test_kernels_give_what_torch_gives(tokens: int, rank: int) -> None:
    from neva_prep.trainer.fused import kernels

    width, groups, heads, size = 400, 2, 6, 64
    hidden, b = random(tokens, rank), random(2 * width, rank)
    y, d_out = random(tokens, 2 * width), random(tokens, width)
    check(kernels.swiglu, plain.swiglu, y, hidden, b)
    check(kernels.swiglu_backward, plain.swiglu_backward, d_out, y, hidden, b)
    out = (heads + 2 * groups) * size
    cos, sin = random(tokens, 1, size // 2), random(tokens, 1, size // 2, seed=2)
    turned = check(
        kernels.turn,
        plain.turn,
        random(tokens, out),
        hidden,
        random(out, rank),
        cos,
        sin,
        groups,
        size,
    )
    check(kernels.turned_back, plain.turned_back, *turned, cos, sin, groups)
    check(kernels.add_low_rank, plain.add_low_rank, y.clone(), hidden, b.t())
    check(kernels.add_low_rank, plain.add_low_rank, y.clone(), hidden, b.t().contiguous())


def check(kernel: Callable[..., Any], own: Callable[..., Any], *given: Any) -> Any:
    """What the kernel gives; torch's own works on the same numbers in float32."""
    wide = [x.float() if isinstance(x, Tensor) else x for x in given]
    expected, found = own(*wide), kernel(*given)
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for got, should in pairs:
        assert got.dtype == torch.bfloat16
        assert error(got, should) < ROUNDING, kernel.__name__
    return found


def test_products_in_eight_bits_are_near() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU multiplies no 8-bit floats")
    from neva_prep.trainer.fp8 import Rounded, rounded
    from neva_prep.trainer.fused.kernels import round_rows

    x, weight, dy = random(300, 1024), random(512, 1024), random(300, 512)
    product = Rounded(weight)
    # Two factors, each rounded by a sixteenth at most, errors that cancel in sums of a thousand.
    assert error(product.forward(x), x.float() @ weight.float().t()) < 0.05
    assert error(product.backward(dy), dy.float() @ weight.float()) < 0.05
    for found, expected in zip(round_rows(x), rounded(x), strict=True):
        assert error(found, expected) < 0.08


# Attention.

PACKS = {
    "even": [0, 256, 512, 768, 1024],
    "uneven": [0, 1, 40, 999, 1000, 1024],
    "one": [0, 1024],
    "many": list(range(0, 1025, 16)),
    "odd": [0, 300, 999],
}


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("by", ["varlen", "cudnn"])
def test_packed_attention_is_each_samples_own(by: str, pack: str, groups: int) -> None:
    from neva_prep.trainer.cudnn_attention import fits

    bounds = PACKS[pack]
    query, key, value = (
        random(bounds[-1], n, 64, seed=i) for i, n in enumerate((4, groups, groups))
    )
    layer = attention_layer()
    packed = SimpleNamespace(
        cu_seqlens_q_padded=torch.tensor(bounds, dtype=torch.int32, device="cuda"),
        max_seqlen_q=max(b - a for a, b in pairwise(bounds)),
    )
    if by == "cudnn" and not (importlib.util.find_spec("cudnn") and fits(query)):
        pytest.skip("cuDNN's frontend is not installed")
    run: Any = layer._packed_on_gpu if by == "cudnn" else layer._packed_by_torch
    found = with_gradients(
        lambda q, k, v: run(q, k, v, packed).view(bounds[-1], -1), query, key, value
    )

    def by_pieces(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made: Tensor = layer._by_pieces(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), bounds)
        return made.reshape(bounds[-1], -1)

    with sdpa_kernel(SDPBackend.MATH):
        expected = with_gradients(by_pieces, query.double(), key.double(), value.double())
    for got, should in zip(found, expected, strict=True):
        assert error(got, should) < 2 * ROUNDING


def attention_layer() -> Any:
    training = build(replace(SMALL), None, precision="bf16")
    return training.chunks[0].language_model.decoder.layers[0].self_attention.core_attention


def with_gradients(run: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in given]
    out = run(*leaves)
    grown = random(*out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, grown)]


# Steps.


def build(config: Any, peft: LoRA | None, **compute: Any) -> Training:
    one_rank(3)
    training = build_training(config, compute=ComputeConfig(**compute), peft=peft)
    with torch.no_grad():
        for name, weight in training.chunks[0].named_parameters():
            # Drawn from the name alone, so that all precisions begin with the same.
            drawn = torch.Generator().manual_seed(sum(map(ord, name)))
            if weight.dim() > 1:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=drawn))
    for part in getattr(training.optimizer, "chained_optimizers", [training.optimizer]):
        part.reload_model_params()
    return training


def step(batch: Any, peft: LoRA | None = None, **compute: Any) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients of a step."""
    training = build(SMALL, peft, **compute)
    result = train_step(
        training, iter([batch]), num_micro_batches=1, seq_length=256, micro_batch_size=4
    )
    return result.loss, {
        name: weight.main_grad.clone()
        for name, weight in training.chunks[0].named_parameters()
        if weight.requires_grad
    }


def alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The smallest cosine between two gradients of a weight."""
    assert found.keys() == expected.keys()
    names = [name for name in found if not name.endswith("position_embeddings.weight")]
    return min(
        float(torch.cosine_similarity(found[n].flatten(), expected[n].flatten(), 0)) for n in names
    )


PEFT = {
    "all": None,
    "lora": LoRA(dim=8, alpha=12),
    "dropout": LoRA(dim=8, alpha=12, dropout=1e-9),
}


@pytest.mark.parametrize("peft", ["all", "lora"])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_nothing_waits_for_the_gpu_in_the_midst_of_a_step(
    precision: str, peft: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait lets the GPU run dry: between all forward and backward passes of a step is none."""
    if peft == "all" and precision == "fp8" and not has_transformer_engine():
        pytest.skip("trained weights multiply in eight bits by Transformer Engine alone")
    training = build(SMALL, PEFT[peft], precision=precision)
    run, passes = step_module._run, []

    def strict(*args: Any, **settings: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            passes.append(run(*args, **settings))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return passes[-1]

    def train() -> None:
        pixels = packed_batch(SMALL)
        pixels["media"] = pixels["media"].clamp(0, 255).to(torch.uint8)
        train_step(
            training,
            iter([pixels, packed_batch(SMALL, seed=2)]),
            num_micro_batches=2,
            seq_length=256,
            micro_batch_size=4,
        )

    train()  # Kernels are compiled, and constants brought, in the first step.
    monkeypatch.setattr(step_module, "_run", strict)
    train()
    assert len(passes) == 1


def test_weights_in_eight_bits_leave_the_gpu(tmp_path: Path) -> None:
    """What changes a weight that rests in the computer's memory is seen all the same."""
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU multiplies no 8-bit floats")
    training = build(SMALL, PEFT["lora"], precision="fp8")
    decoder = training.chunks[0].language_model.decoder
    inside = set(decoder.modules())
    layers = [layer for _, layer in adapted_layers(training.chunks) if layer in inside]
    assert len(layers) == 4 * len(decoder.layers)
    save_weights(training.chunks, tmp_path / "weights")
    with torch.no_grad():
        for layer in layers:
            layer.lora_b.normal_(std=0.05)

    def loss() -> float:
        batch = iter([packed_batch(SMALL)])
        found = evaluate_step(
            training, batch, num_micro_batches=1, seq_length=256, micro_batch_size=4
        )
        assert found is not None and not any(layer.weight.is_cuda for layer in layers)
        return found.loss

    adapted = loss()
    merge(training.chunks)
    assert loss() == pytest.approx(adapted, rel=1e-2)
    unmerge(training.chunks)
    assert loss() == adapted
    load_weights(training.chunks, tmp_path / "weights")
    before = loss()
    assert abs(before - adapted) > 1e-2 * adapted, "adapters that change nothing are there again"
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(2)
    assert loss() != pytest.approx(before, rel=1e-4)
    load_weights(training.chunks, tmp_path / "weights")
    assert loss() == before


@pytest.mark.parametrize("peft", PEFT)
@pytest.mark.parametrize(
    ("compute", "loss_limit", "cosine"),
    [
        ({"precision": "fp32"}, 1e-5, 1 - 1e-5),
        ({"precision": "bf16", "fused": False}, 3e-3, 0.99),
        ({"precision": "bf16"}, 3e-3, 0.99),
        ({"precision": "fp8", "fused": False}, 2e-2, 0.9),
        ({"precision": "fp8"}, 2e-2, 0.9),
    ],
)
def test_packed_rows_train_as_padded_ones(
    compute: dict[str, Any], loss_limit: float, cosine: float, peft: str
) -> None:
    """Both against float32, padded, by megatron-core's own layers."""
    if peft == "all" and compute["precision"] == "fp8" and not has_transformer_engine():
        pytest.skip("trained weights multiply in eight bits by Transformer Engine alone")
    expected, gradients = step(padded_batch(SMALL), PEFT[peft], precision="fp32", fused=False)
    for batch in (padded_batch(SMALL), packed_batch(SMALL)):
        loss, found = step(batch, PEFT[peft], **compute)
        assert loss == pytest.approx(expected, rel=loss_limit)
        assert alike(found, gradients) > cosine


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.skipif(not has_transformer_engine(), reason="there is no Transformer Engine")
def test_trained_weights_multiply_in_transformer_engine(
    fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each product of the decoder, and what is learned in ten steps is what bfloat16 learns."""
    rows = []
    multiply = EngineProduct._on_engine

    def counted(product: EngineProduct, x: Tensor, weight: Tensor) -> Tensor:
        rows.append(len(x))
        return multiply(product, x, weight)

    monkeypatch.setattr(EngineProduct, "_on_engine", counted)
    losses = {}
    for precision in ("bf16", "fp8"):
        training = build(SMALL, None, precision=precision, fused=fused)
        losses[precision] = [
            train_step(
                training,
                iter([packed_batch(SMALL)]),
                num_micro_batches=1,
                seq_length=256,
                micro_batch_size=4,
            ).loss
            for _ in range(10)
        ]
    assert len(rows) == 10 * 4 * 4 and all(count % 16 == 0 for count in rows)
    bf16, fp8 = losses.values()
    assert fp8 != bf16 and fp8[-1] < 0.9 * fp8[0]
    assert fp8 == pytest.approx(bf16, rel=3e-2)


def test_two_ranks_in_eight_bits_train_as_one(tmp_path: Path) -> None:
    """Tensor parallel ranks that share this GPU, over gloo; each rounds its piece by itself."""
    names = [case.name for case in ON_A_GPU]
    for name, results in run_ranks(tmp_path, names, RANKS_ON_ONE_GPU="2").items():
        assert len(results) == 2, name
        for result in results:
            assert result["loss"] < 2e-2 and result["norm"] < 5e-2, f"{name}: {result}"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
def test_ranks_over_nccl_train_as_one(tmp_path: Path) -> None:
    """Loss, gradients and weights of two steps, in each layout that so many GPUs can have."""
    names = [case.name for case in CORE if ranks_of(case.layout) <= RANKS]
    assert len(names) > 10
    check_differences(run_ranks(tmp_path, names))


def ranks_of(layout: str) -> int:
    sizes = LAYOUTS[layout]
    return (
        sizes.tensor_model_parallel_size
        * sizes.pipeline_model_parallel_size
        * sizes.context_parallel_size
    )


def test_an_offloaded_encoder_leaves_the_gpu_and_trains_the_same(tmp_path: Path) -> None:
    config = replace(SMALL, freeze_vision_model=True)
    found = []
    for offload in (False, True):
        training = build(config, None, precision="bf16", offload_vision=offload)
        part = training.chunks[0].vision_model
        assert part is not None
        encoder = list(part.parameters())
        assert all(weight.is_cuda != offload for weight in encoder)
        loss = train_step(
            training,
            iter([packed_batch(SMALL)]),
            num_micro_batches=1,
            seq_length=256,
            micro_batch_size=4,
        ).loss
        assert all(weight.is_cuda != offload for weight in encoder)
        found.append((loss, [w.detach().cpu().clone() for w in training.chunks[0].parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    # A checkpoint of it is one like any other.
    save_weights(training.chunks, tmp_path / "weights")
    with torch.no_grad():
        for weight in encoder:
            weight.zero_()
    load_weights(training.chunks, tmp_path / "weights")
    after = [w.detach().cpu() for w in training.chunks[0].parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found[1][1], after, strict=True))
