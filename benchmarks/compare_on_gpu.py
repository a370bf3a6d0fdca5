"""Whether ours computes what Hugging Face's does, and fp8 what bf16 does, for train_gpu.py."""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from docstrings import make_docstrings
from hf_on_gpu import hf_batches, hf_model, with_peft
from neva_on_gpu import LORA_DIM, PACK, build, fill_random, lora, make_data, neva_config, train

BASE_STEPS, STEPS = 300, 200
"""Of training all weights, and of LoRA after it."""


class _InMemory:
    """Hugging Face's weights, as hf_load.fill reads them from a folder."""

    folder = "memory"

    def __init__(self, model: Any) -> None:
        from neva_prep.trainer.hf_files import canonical

        self._weights = {
            canonical(n.removeprefix("model.")): w for n, w in model.state_dict().items()
        }

    def names(self) -> set[str]:
        return set(self._weights)

    def read(self, name: str) -> torch.Tensor:
        return self._weights[name].detach().cpu()


def agree(options: argparse.Namespace) -> dict[str, Any]:
    """Both train the same adapters on the same padded samples, 20 steps.

    On the layers that Hugging Face has as they are in megatron-core: an adapter of fused layers is
    one there, and several here.
    """
    from neva_prep.trainer import LoRA
    from neva_prep.trainer.hf_load import load_hf_weights
    from neva_prep.trainer.recipes.stages import LANGUAGE_LAYERS
    from neva_prep.trainer.step import train_step

    name, steps, rows = "agree", 20, 4
    config = neva_config(name, options, layers=8)
    hf = hf_model(config)
    folder = _InMemory(hf)
    batches = list(hf_batches(name, options, rows, steps, workers=0))
    data = make_data(name, options, pack=False, workers=0, rows=rows)
    training = build(
        config,
        data,
        LoRA(target_modules=LANGUAGE_LAYERS[1::2], dim=LORA_DIM, alpha=LORA_DIM),
        load=lambda chunks: [load_hf_weights(chunk, folder) for chunk in chunks],
    )
    hf.requires_grad_(False)
    # Adapters in float32, as the optimizer of ours keeps them.
    hf = with_peft(hf, "o_proj|down_proj", whole=True)
    weights = dict(hf.named_parameters())
    for layer, theirs in _adapters(training.chunks[0], weights):
        theirs.data.copy_(layer)
    optimizer = torch.optim.AdamW(
        [weight for weight in hf.parameters() if weight.requires_grad],
        lr=1e-4,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    curve = []
    for batch in batches:
        batch.pop("tokens")
        loss = hf(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        curve.append(float(loss))
    stream = iter(data.train_dataloader())
    ours = [
        train_step(
            training, stream, num_micro_batches=1, seq_length=4096, micro_batch_size=rows
        ).loss
        for _ in range(steps)
    ]
    data.close()
    return _difference(ours, curve)


def _adapters(model: Any, theirs: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each weight of an adapter, and Hugging Face's."""
    for name, weight in model.named_parameters():
        if "lora_" in name:
            layer, kind = name.split("layers.")[1].split(".")[0], name[-1].upper()
            part = "self_attn.o_proj" if "linear_proj" in name else "mlp.down_proj"
            end = f"language_model.layers.{layer}.{part}.lora_{kind}.default.weight"
            yield weight, next(value for found, value in theirs.items() if found.endswith(end))


def fp8_loss(options: argparse.Namespace) -> dict[str, Any]:
    """LoRA from random weights, on the few conversations of the dataset, again and again."""
    return _fp8(options, fill_random, options.layers or 4)


def fp8_tuning(options: argparse.Namespace) -> dict[str, Any]:
    """LoRA as it is used: from weights that were trained, here on other docstrings, seen once."""
    layers = options.layers or 8
    with tempfile.TemporaryDirectory() as folder:
        # A token has some three characters and a half.
        lengths = [5 * PACK * BASE_STEPS, 5 * PACK * STEPS]
        first, second = make_docstrings(Path(folder), lengths, shards=8)
        base = _trained(_on(options, first), layers)

        def fill(training: Any) -> None:
            with torch.no_grad():
                for name, weight in training.chunks[0].named_parameters():
                    if "lora_" not in name:
                        weight.copy_(base[name])

        return _fp8(_on(options, second), fill, layers)


def _on(options: argparse.Namespace, data: Path) -> argparse.Namespace:
    return argparse.Namespace(**vars(options) | {"data": data})


def _trained(options: argparse.Namespace, layers: int) -> dict[str, torch.Tensor]:
    """All weights of a model, by name, after some training from random ones."""
    data = make_data("base", options, pack=True, workers=4)
    training = build(neva_config("base", options, layers), data, None, optimizer={"lr": 2e-4})
    fill_random(training)
    batches = iter(data.train_dataloader())
    losses = [train(training, batches, 1).loss for _ in range(BASE_STEPS)]
    print("training of all weights:", [round(loss, 3) for loss in losses[:: BASE_STEPS // 10]])
    data.close()
    return {name: weight.clone() for name, weight in training.chunks[0].named_parameters()}


def _fp8(options: argparse.Namespace, fill: Callable[[Any], None], layers: int) -> dict[str, Any]:
    """LoRA on the same packs in the same order, from the same weights, in fp8 and in bf16.

    And in bf16 by megatron-core's layers, which round in other places: so far apart are two runs
    in bf16, too.
    """
    curves = []
    for compute in ({}, {"precision": "fp8"}, {"fused": False}):
        torch.manual_seed(1)
        data = make_data("fp8", options, pack=True, workers=6)
        training = build(neva_config("fp8", options, layers), data, lora(), **compute)
        fill(training)
        stream = iter(data.train_dataloader())
        curves.append([train(training, stream, 1).loss for _ in range(STEPS)])
        data.close()
        del training
        gc.collect()
        torch.cuda.empty_cache()
    bf16, fp8, unfused = curves
    return _difference(fp8, bf16) | {"bf16_by_other_kernels": _difference(unfused, bf16)}


def _difference(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    differences = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "largest_difference": max(differences),
        "mean_difference": statistics.mean(differences),
        "difference_of_means": abs(statistics.mean(ours) / statistics.mean(theirs) - 1),
        "ours": [round(value, 4) for value in ours[:: max(1, len(ours) // 10)]],
        "theirs": [round(value, 4) for value in theirs[:: max(1, len(theirs) // 10)]],
    }


COMPARISONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "agree": agree,
    "fp8-loss": fp8_loss,
    "fp8-tuning": fp8_tuning,
}
