"""Training of LLaVA-1.5 on one GPU: ours beside Hugging Face's, in one run on one card.

Every variant is a process of its own, so that none inherits another's memory or compiled code:

- ours: `train_step` on packs of 8,192 positions straight from the loader, whose waiting counts.
- hf: LlavaForConditionalGeneration with PEFT, SDPA and torch's fused AdamW, on the same samples in
  padded batches that lie ready on the GPU: its best of several batch sizes, with and without
  gradient checkpointing.
- hf-liger: the same with Liger's kernels; hf-compile: with compiled decoder layers.

Weights are random: speed does not depend on them. Positions of samples count (words and image
embeddings), padding does not. Medians of steps after warm-up.

Run: python benchmarks/train_gpu.py --data DATASET --captions DATASET --tokenizer FOLDER
     [--only NAME,NAME] [--layers 32] [--steps 12]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from machine import write_result

PACK = 8192
WARM_UP = 4
LORA_DIM = 32
VARIANTS = {
    "ours-bf16": "7B, LoRA, bf16",
    "ours-fp8": "the same, fp8",
    "hf": "7B, LoRA, Hugging Face + PEFT",
    "hf-liger": "the same with Liger's kernels",
    "hf-compile": "7B, LoRA, Hugging Face + PEFT with compiled layers",
    "ours-pretrain": "7B, projector alone, captions",
    "hf-pretrain": "the same, Hugging Face",
    "ours-13b": "13B, LoRA, bf16, layers computed again",
    "agree": "losses of ours and of Hugging Face, same weights and samples, fewer layers",
    "fp8-loss": "losses in fp8 and in bf16, 200 steps, fewer layers",
}


def main() -> None:
    """Run each variant in a process, and write what they found."""
    options = _options()
    if options.variant:
        print("RESULT " + json.dumps(_run(options.variant, options)), flush=True)
        return
    found: dict[str, Any] = {"matmul_tflops": _matmul_peak()}
    for name in options.only.split(",") if options.only else VARIANTS:
        began = time.perf_counter()
        found[name] = _child(name)
        print(f"{name:14} {time.perf_counter() - began:5.0f} s  {found[name]}", flush=True)
        # Each time: a run that is cut off leaves what it has.
        figures = {"card": torch.cuda.get_device_name()} | _compare(found)
        write_result("train_gpu", figures | found)
    print(json.dumps(figures, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dataset of conversations")
    parser.add_argument("--captions", type=Path, help="dataset of captions")
    parser.add_argument("--tokenizer", required=True, help="folder of Llama's tokenizer")
    parser.add_argument("--only", help="names of variants")
    parser.add_argument("--variant", choices=VARIANTS, help="run one here")
    parser.add_argument("--layers", type=int, help="of the decoder; the model's own unless given")
    parser.add_argument("--steps", type=int, default=12, help="that are timed")
    return parser.parse_args()


def _child(name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *sys.argv, "--variant", name], stdout=subprocess.PIPE, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    for line in done.stdout.splitlines():
        if not line.startswith("RESULT "):
            print("   ", line)
    return dict(json.loads(lines[-1][7:])) if lines else {"failed": done.returncode}


def _matmul_peak() -> float:
    """TFLOP/s of a bf16 product of 8192 x 8192 matrices."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / start.elapsed_time(end) / 1e9


def _compare(found: dict[str, Any]) -> dict[str, Any]:
    """The ratios that the targets are about."""

    def of(name: str, key: str) -> float:
        return float(found.get(name, {}).get(key, float("nan")))

    ours = of("ours-bf16", "tokens_per_second")
    strongest = max(
        (of(name, "tokens_per_second") for name in ("hf-liger", "hf-compile")),
        key=lambda value: value if value == value else 0.0,
    )
    return {
        "ratio_vs_hf_useful_tokens": ours / of("hf", "tokens_per_second"),
        "ratio_vs_strongest_easy_peer": ours / strongest,
        "fraction_of_matmul_peak": of("ours-bf16", "tflops") / found["matmul_tflops"],
        "fp8_over_bf16": of("ours-fp8", "tokens_per_second") / ours,
        "pretrain_ratio_vs_hf_samples": of("ours-pretrain", "samples_per_second")
        / of("hf-pretrain", "samples_per_second"),
        "memory_gib": {name: of(name, "peak_gib") for name in VARIANTS if name in found},
        "fp8_loss_difference": of("fp8-loss", "largest_difference"),
        "hf_loss_difference": of("agree", "largest_difference"),
    }


def _run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(1)
    if name in ("agree", "fp8-loss"):
        return (_agree if name == "agree" else _fp8_loss)(options)
    return (_ours if name.startswith("ours") else _theirs)(name, options)


# Ours.


def _config(name: str, options: argparse.Namespace, layers: int | None = None) -> Any:
    from neva_prep.trainer import CLIPViTL_14_336_Config, Llava15Config7B, Llava15Config13B

    config = (Llava15Config13B if "13b" in name else Llava15Config7B)()
    config = replace(config, vision_transformer_config=CLIPViTL_14_336_Config())
    layers = layers or options.layers
    if layers:
        language = replace(config.language_transformer_config, num_layers=layers)
        config = replace(config, language_transformer_config=language)
    pretrain = "pretrain" in name
    return replace(config, freeze_language_model=pretrain, freeze_vision_model=True)


def _data(
    name: str, options: argparse.Namespace, *, pack: bool, workers: int, rows: int = 1
) -> Any:
    from transformers import AutoTokenizer

    from neva_prep.loaders import ImageConfig
    from neva_prep.trainer import ParallelConfig
    from neva_prep.trainer.hf_config import resolve
    from neva_prep.trainer.open_data import DataOptions, open_data

    processor = SimpleNamespace(
        tokenizer=AutoTokenizer.from_pretrained(options.tokenizer),
        image_processor=ImageConfig(mode="fast", output="uint8"),
    )
    pretrain = "pretrain" in name
    return open_data(
        DataOptions(
            path=options.captions if pretrain else options.data,
            template="plain" if pretrain else None,
            seq_length=PACK if pack else 4096,
            pack=pack,
            micro_batch_size=rows,
            global_batch_size=rows,
            num_workers=workers,
        ),
        processor,
        resolve(_config(name, options)),
        ParallelConfig(),
    )


def _lora() -> Any:
    from neva_prep.trainer import LoRA
    from neva_prep.trainer.recipes.stages import LANGUAGE_LAYERS

    return LoRA(target_modules=LANGUAGE_LAYERS, dim=LORA_DIM, alpha=LORA_DIM)


def _build(config: Any, data: Any, load: Callable[..., Any], peft: Any, **compute: Any) -> Any:
    from neva_prep.trainer import ComputeConfig, ParallelConfig
    from neva_prep.trainer.build import build_training
    from neva_prep.trainer.match import image_statistics
    from neva_prep.trainer.optimizer import OptimizerSettings
    from neva_prep.trainer.ranks import start_ranks

    if not torch.distributed.is_initialized():
        start_ranks(ParallelConfig(), seed=1)
    return build_training(
        config,
        compute=ComputeConfig(**({"precision": "bf16", "initialize": False} | compute)),
        optimizer=OptimizerSettings(lr=1e-4),
        peft=peft,
        load=load,
        **image_statistics(data),
    )


def _fill_random(training: Any) -> None:
    """Weights on the GPU: drawing them on the CPU takes minutes."""
    for name, weight in training.chunks[0].named_parameters():
        if "lora" in name:
            continue
        if weight.dim() == 1:
            weight.data.fill_(float("norm" in name or "ln_" in name) if "weight" in name else 0.0)
        else:
            weight.data.normal_(0, 0.02)


def _ours(name: str, options: argparse.Namespace) -> dict[str, Any]:
    from neva_prep.trainer.flops import step_flops
    from neva_prep.trainer.step import train_step
    from neva_prep.trainer.watch import Watch

    # Captions come in five shards, of which each reader takes its own.
    data = _data(name, options, pack=True, workers=4)
    peft = None if "pretrain" in name else _lora()
    compute = {"precision": "fp8"} if "fp8" in name else {}
    if "13b" in name:
        compute["recompute"] = "full"
    training = _build(_config(name, options), data, lambda chunks: None, peft, **compute)
    _fill_random(training)
    watch = Watch(iter(data.train_dataloader()))
    for _ in range(WARM_UP):
        train_step(training, watch, num_micro_batches=1, seq_length=PACK, micro_batch_size=1)
    watch.take()
    # As the training loop does.
    gc.collect()
    gc.freeze()
    torch.cuda.reset_peak_memory_stats()
    seconds, tokens, waits, flops, samples = [], [], [], [], []
    torch.cuda.synchronize()
    for _ in range(options.steps):
        start = time.perf_counter()
        result = train_step(
            training, watch, num_micro_batches=1, seq_length=PACK, micro_batch_size=1
        )
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        seen = watch.take()
        tokens.append(result.num_tokens)
        samples.append(len(seen.keys))
        waits.append(seen.wait_seconds)
        flops.append(
            step_flops(training, positions=seen.positions, squares=seen.squares, tiles=seen.tiles)
        )
    parts = _parts(training, watch)
    data.close()
    step = statistics.median(seconds)
    return {
        "step_seconds": step,
        "all_steps": [round(value, 4) for value in seconds],
        "tokens_per_second": statistics.median(tokens) / step,
        "samples_per_second": statistics.mean(samples) / step,
        "tflops": statistics.median(flops) / step / 1e12,
        "waiting_share": statistics.median(waits) / step,
        "mean_waiting_share": sum(waits) / sum(seconds),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "positions_per_step": PACK,
        "loss": result.loss,
        "parts_ms": parts,
    }


def _parts(training: Any, watch: Any) -> dict[str, float]:
    """Where the processor is in a step, in ms: medians of five steps."""
    from neva_prep.trainer import step as stops

    taken: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                taken.setdefault(name, []).append(1000 * (time.perf_counter() - start))

        return run

    for name in ("share_batches", "expand_batch", "_next", "_run", "_result"):
        setattr(stops, name, timed(name, getattr(stops, name)))
    for name in ("get_grad_norm", "step_with_ready_grads"):
        setattr(training.optimizer, name, timed(name, getattr(training.optimizer, name)))
    for _ in range(5):
        stops.train_step(training, watch, num_micro_batches=1, seq_length=PACK, micro_batch_size=1)
        torch.cuda.synchronize()
    waits = watch.take().wait_seconds / 5 * 1000
    return {name: statistics.median(values) for name, values in taken.items()} | {"next": waits}


# Hugging Face's.


def _hf_model(config: Any, *, liger: bool = False) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from neva_prep.trainer.hf_config import neva_to_hf, resolve

    if liger:
        from liger_kernel.transformers import (
            apply_liger_kernel_to_llama,
            apply_liger_kernel_to_llava,
        )

        apply_liger_kernel_to_llama(rope=True, swiglu=True, rms_norm=True)
        apply_liger_kernel_to_llava()
    settings = neva_to_hf(resolve(config))
    settings.pop("model_type")
    made = LlavaConfig(**settings)
    made._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlavaForConditionalGeneration(made)
    torch.set_default_dtype(torch.float32)
    return model


def _hf_batches(
    name: str, options: argparse.Namespace, rows: int, count: int, workers: int = 4
) -> Iterator[dict[str, Any]]:
    """Padded batches of the same samples, on the GPU, as LlavaForConditionalGeneration wants."""
    from neva_prep.loaders.normalize import normalize
    from neva_prep.trainer.expand import expand_batch

    data = _data(name, options, pack=False, workers=workers, rows=rows)
    config = _config(name, options)
    reader = data.settings.encoder.preparer.reader.config
    for batch in islice(data.train_dataloader(), count):
        rows_ = expand_batch(batch, num_image_embeddings_per_tile=576)
        ids = rows_.input_ids.masked_fill(rows_.input_ids < 0, config.image_token_index)
        labels = torch.full_like(rows_.labels, -100)
        labels[:, 1:] = rows_.labels[:, :-1]
        lengths = (rows_.position_ids + 1).where(rows_.labels != -100, 0).amax(1, keepdim=True)
        places = torch.arange(ids.shape[1])[None]
        yield {
            "input_ids": ids.cuda(),
            "labels": labels.cuda(),
            "attention_mask": (places < lengths + 1).long().cuda(),
            "pixel_values": normalize(
                rows_.media.cuda(), mean=reader.mean, std=reader.std, dtype=torch.bfloat16
            ),
            "tokens": int(lengths.sum()) + rows,
        }
    data.close()


def _theirs(name: str, options: argparse.Namespace) -> dict[str, Any]:
    pretrain = "pretrain" in name
    config = _config(name, options)
    model = _hf_model(config, liger="liger" in name)
    model.config.use_cache = False
    model.requires_grad_(False)
    if pretrain:
        model.model.multi_modal_projector.requires_grad_(True)
    else:
        model = _with_peft(model)
    if "compile" in name:
        language = model.base_model.model.model.language_model
        for layer in language.layers:
            layer.compile(dynamic=True)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    tries = [(4, False), (6, False), (8, True)]
    if "liger" in name or "compile" in name:
        tries = [(6, False), (8, False)]
    if pretrain:
        tries = [(8, False), (12, False)]
    found = []
    for rows, again in tries:
        found.append(_time_theirs(model, optimizer, name, options, rows, again))
        print(found[-1], flush=True)
        torch.cuda.empty_cache()
    return max(found, key=lambda one: one.get("tokens_per_second", 0.0)) | {"tries": found}


def _with_peft(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    pattern = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    lora = LoraConfig(r=LORA_DIM, lora_alpha=LORA_DIM, target_modules=pattern)
    return get_peft_model(model, lora)


def _time_theirs(
    model: Any, optimizer: Any, name: str, options: argparse.Namespace, rows: int, again: bool
) -> dict[str, Any]:
    said = {"rows": rows, "checkpointing": again}
    base = model if "pretrain" in name else model.base_model.model
    if again:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    else:
        base.gradient_checkpointing_disable()
    model.train()
    torch.cuda.reset_peak_memory_stats()
    seconds, tokens = [], []
    steps = WARM_UP + min(8, options.steps)
    try:
        for number, batch in enumerate(_hf_batches(name, options, rows, steps)):
            tokens.append(batch.pop("tokens"))
            torch.cuda.synchronize()
            start = time.perf_counter()
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_([w for w in model.parameters() if w.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            del batch, loss
            if number >= steps - 1:
                break
    except torch.OutOfMemoryError:
        optimizer.zero_grad()
        return said | {"failed": "out of memory"}
    timed = [t / s for t, s in zip(tokens[WARM_UP:], seconds[WARM_UP:], strict=True)]
    return said | {
        "step_seconds": statistics.median(seconds[WARM_UP:]),
        "tokens_per_second": statistics.median(timed),
        "samples_per_second": rows / statistics.median(seconds[WARM_UP:]),
        "positions_per_step": statistics.median(tokens[WARM_UP:]),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


# Do they compute the same?


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


def _agree(options: argparse.Namespace) -> dict[str, Any]:
    """Both train the same adapters' worth of projector on the same padded samples, 20 steps."""
    from neva_prep.trainer.hf_load import load_hf_weights
    from neva_prep.trainer.step import train_step

    name, steps, rows = "ours-pretrain-agree", 20, 4
    config = _config(name, options, layers=8)
    hf = _hf_model(config)
    folder = _InMemory(hf)
    batches = list(_hf_batches(name, options, rows, steps, workers=0))
    data = _data(name, options, pack=False, workers=0, rows=rows)
    training = _build(
        config, data, lambda chunks: [load_hf_weights(chunk, folder) for chunk in chunks], None
    )
    hf.requires_grad_(False)
    hf.model.multi_modal_projector.requires_grad_(True)
    weights = [weight for weight in hf.parameters() if weight.requires_grad]
    # The optimizer of ours keeps float32 weights, so does this one.
    whole = [weight.detach().float().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in whole if w.dim() > 1], "weight_decay": 0.1},
            {"params": [w for w in whole if w.dim() == 1], "weight_decay": 0.0},
        ],
        lr=1e-4,
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    theirs = []
    for batch in batches:
        batch.pop("tokens")
        loss = hf(**batch).loss
        loss.backward()
        for weight, copy in zip(weights, whole, strict=True):
            assert weight.grad is not None
            copy.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(whole, 1.0)
        optimizer.step()
        with torch.no_grad():
            for weight, copy in zip(weights, whole, strict=True):
                weight.copy_(copy)
        theirs.append(float(loss))
    stream = iter(data.train_dataloader())
    ours = [
        train_step(
            training, stream, num_micro_batches=1, seq_length=4096, micro_batch_size=rows
        ).loss
        for _ in range(steps)
    ]
    data.close()
    return _difference(ours, theirs)


def _fp8_loss(options: argparse.Namespace) -> dict[str, Any]:
    """LoRA on the same packs in the same order, from the same weights, in fp8 and in bf16."""
    from neva_prep.trainer.step import train_step

    curves = []
    for precision in ("bf16", "fp8"):
        torch.manual_seed(1)
        name = "ours-loss"
        data = _data(name, options, pack=True, workers=6)
        training = _build(
            _config(name, options, layers=options.layers or 4),
            data,
            lambda chunks: None,
            _lora(),
            precision=precision,
        )
        _fill_random(training)
        stream = iter(data.train_dataloader())
        losses = [
            train_step(
                training, stream, num_micro_batches=1, seq_length=PACK, micro_batch_size=1
            ).loss
            for _ in range(200)
        ]
        data.close()
        curves.append(losses)
        del training
        torch.cuda.empty_cache()
    return _difference(curves[1], curves[0])


def _difference(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    differences = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "largest_difference": max(differences),
        "ours": [round(value, 4) for value in ours[:: max(1, len(ours) // 10)]],
        "theirs": [round(value, 4) for value in theirs[:: max(1, len(theirs) // 10)]],
    }


if __name__ == "__main__":
    main()
