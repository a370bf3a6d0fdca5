"""Products of a 7B decoder's layers on a GPU: in bfloat16, in our 8 bits, in Transformer Engine's.

    python benchmarks/products_gpu.py

Forward and backward passes of 8192 tokens, without adapters; of a trained weight its gradient,
too. A frozen weight is rounded once, by either.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from machine import write_result
from torch import Tensor

from neva_prep.trainer.engine_product import EngineProduct, has_transformer_engine
from neva_prep.trainer.fp8 import Rounded
from neva_prep.trainer.fused.product import Plain, frozen_product

TOKENS = 8192
SHAPES = {
    "linear_qkv": (12288, 4096),
    "linear_proj": (4096, 4096),
    "linear_fc1": (22016, 4096),
    "linear_fc2": (4096, 11008),
}
"""Out and in."""
Multiply = Callable[[Tensor], Tensor]


def main() -> None:
    """Time each product of each layer."""
    found: dict[str, dict[str, float]] = {}
    for layer, (out, width) in SHAPES.items():
        weight = torch.randn(out, width, device="cuda", dtype=torch.bfloat16) * 0.02
        found[layer] = {name: _milliseconds(make, width) for name, make in _ways(weight).items()}
        print(f"{layer:12}", {name: round(value, 3) for name, value in found[layer].items()})
    total = {name: sum(layer[name] for layer in found.values()) for name in found["linear_qkv"]}
    print(f"{'together':12}", {name: round(value, 3) for name, value in total.items()})
    card = torch.cuda.get_device_name()
    write_result("products_gpu", {"card": card, "together": total, "layers": found})


def _ways(weight: Tensor) -> dict[str, Multiply]:
    """How a product can be made, by name."""
    plain, rounded = Plain(weight), Rounded(weight)
    trained = torch.nn.Parameter(weight.clone())
    ways: dict[str, Multiply] = {
        "frozen_bf16": lambda x: frozen_product(x, plain),
        "frozen_ours": lambda x: frozen_product(x, rounded),
        "trained_bf16": lambda x: torch.nn.functional.linear(x, trained),
    }
    if has_transformer_engine():
        product = EngineProduct()
        ways |= {
            "frozen_engine": _frozen_engine(weight),
            "trained_engine": lambda x: product(x, trained),
        }
    return ways


def _frozen_engine(weight: Tensor) -> Multiply:
    import transformer_engine.pytorch as te
    from transformer_engine.common.recipe import Float8CurrentScaling

    out, width = weight.shape
    linear: Any = te.Linear(width, out, bias=False, params_dtype=weight.dtype, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    calls, recipe = iter([True]), Float8CurrentScaling()

    def multiply(x: Tensor) -> Tensor:
        with te.autocast(recipe=recipe):
            y: Tensor = linear(x, is_first_microbatch=next(calls, False))
        return y

    return multiply


def _milliseconds(multiply: Multiply, width: int) -> float:
    """Median of both passes."""
    x = torch.randn(TOKENS, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    dy = torch.randn_like(multiply(x))
    taken = []
    for number in range(25):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        multiply(x).backward(dy)
        end.record()
        torch.cuda.synchronize()
        x.grad = None
        if number >= 5:
            taken.append(start.elapsed_time(end))
    return statistics.median(taken)


if __name__ == "__main__":
    main()
