"""Training of LLaVA-1.5 on one GPU: ours beside Hugging Face's, in one run on one card.

Every variant is a process of its own, so that none inherits another's memory or compiled code:

- ours: `train_step` on packs of 8,192 positions straight from the loader, whose waiting counts.
- hf: LlavaForConditionalGeneration with PEFT, SDPA and torch's fused AdamW, on the same samples in
  padded batches that lie ready on the GPU: its best of several batch sizes, with and without
  gradient checkpointing.
- hf-liger: the same with Liger's kernels; hf-compile: with compiled decoder layers;
  hf-liger-compile: with both.

A step takes four packs, or as many samples in padded batches, and one update of the optimizer.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from compare_on_gpu import COMPARISONS
from hf_on_gpu import run_theirs
from machine import write_result
from neva_on_gpu import PACK, build, fill_random, lora, make_data, neva_config, train

PACKS = 4
"""In a step."""
WARM_UP = 6
"""Steps that are not timed, in which cuDNN's graphs are built; of Hugging Face's one."""
VARIANTS = {
    "ours-bf16": "7B, LoRA, bf16",
    "ours-fp8": "the same, fp8",
    "hf": "7B, LoRA, Hugging Face + PEFT",
    "hf-liger": "the same with Liger's kernels",
    "hf-compile": "7B, LoRA, Hugging Face + PEFT with compiled layers",
    "hf-liger-compile": "the same with Liger's kernels and compiled layers",
    "ours-pretrain": "7B, projector alone, captions",
    "hf-pretrain": "the same, Hugging Face",
    "ours-13b": "13B, LoRA, bf16, layers computed again",
    "agree": "losses of ours and of Hugging Face, same weights and samples, fewer layers",
    "fp8-loss": "losses in fp8 and in bf16, 200 steps from random weights, fewer layers",
    "fp8-tuning": "the same from weights that were trained before, on text",
}

EASY_PEERS = ("hf-liger", "hf-compile", "hf-liger-compile")


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
    parser.add_argument(
        "--steps", type=int, default=8, help="that are timed; of Hugging Face's a quarter"
    )
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
        (of(name, "tokens_per_second") for name in EASY_PEERS),
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
        "fp8_loss_difference": of("fp8-tuning", "largest_difference"),
        "fp8_loss_difference_from_random_weights": of("fp8-loss", "largest_difference"),
        "hf_loss_difference": of("agree", "largest_difference"),
    }


def _run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(1)
    if name in COMPARISONS:
        return COMPARISONS[name](options)
    return (_ours if name.startswith("ours") else run_theirs)(name, options)


# Ours.


def _ours(name: str, options: argparse.Namespace) -> dict[str, Any]:
    from neva_prep.trainer.flops import step_flops
    from neva_prep.trainer.watch import Watch

    # Captions come in five shards, of which each reader takes its own.
    data = make_data(name, options, pack=True, workers=4, batches=PACKS)
    peft = None if "pretrain" in name else lora()
    compute = {"precision": "fp8"} if "fp8" in name else {}
    if "13b" in name:
        compute["recompute"] = "full"
    training = build(neva_config(name, options), data, peft, **compute)
    fill_random(training)
    watch = Watch(iter(data.train_dataloader()))
    # A step of 13B takes several seconds.
    warm_up, steps = (3, 4) if "13b" in name else (WARM_UP, options.steps)
    for _ in range(warm_up):
        train(training, watch, PACKS)
    watch.take()
    # As the training loop does.
    gc.collect()
    gc.freeze()
    torch.cuda.reset_peak_memory_stats()
    seconds, tokens, waits, flops, samples = [], [], [], [], []
    torch.cuda.synchronize()
    for _ in range(steps):
        start = time.perf_counter()
        result = train(training, watch, PACKS)
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
        "positions_per_step": PACKS * PACK,
        "loss": result.loss,
        "parts_ms": parts,
    }


def _parts(training: Any, watch: Any) -> dict[str, float]:
    """Where the processor is in a step, in ms: medians of three steps."""
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
    for _ in range(3):
        train(training, watch, PACKS)
        torch.cuda.synchronize()
    waits = watch.take().wait_seconds / 3 * 1000
    return {name: statistics.median(values) for name, values in taken.items()} | {"next": waits}


if __name__ == "__main__":
    main()
