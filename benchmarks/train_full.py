"""All weights of LLaVA-1.5 7B trained on several GPUs, the optimizer's state shared among them.

What it takes: memory of each GPU and positions a second, on packs of a dataset, layers computed
again in the backward pass. Weights are random.

Run: torchrun --nproc-per-node 2 benchmarks/train_full.py --data DATASET --tokenizer FOLDER
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from machine import write_result
from neva_on_gpu import build, fill_random, make_data, neva_config, train

from neva_prep.trainer import ParallelConfig
from neva_prep.trainer.ranks import start_ranks

PACKS, STEPS = 4, 4
"""Packs of a step, over all ranks; steps that are timed."""


def main() -> None:
    """Train a few steps, and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dataset of conversations")
    parser.add_argument("--tokenizer", required=True, help="folder of Llama's tokenizer")
    parser.add_argument("--layers", type=int, help="of the decoder; the model's own unless given")
    parser.add_argument(
        "--state", choices=["fp32", "bf16"], default="fp32", help="of the optimizer"
    )
    parser.add_argument(
        "--precision", choices=["bf16", "fp8"], default="bf16", help="fp8 by Transformer Engine"
    )
    parser.add_argument("--length", type=int, default=4096, help="positions of a pack")
    parser.add_argument("--keep", action="store_true", help="activations, instead of recomputing")
    options = parser.parse_args()
    start_ranks(ParallelConfig(), seed=1)
    ranks = torch.distributed.get_world_size()
    mine = PACKS // ranks
    data = make_data("full", options, pack=True, workers=1, batches=mine, length=options.length)
    training = build(
        neva_config("full", options),
        data,
        None,
        optimizer={
            "use_distributed_optimizer": True,
            "overlap_grad_reduce": True,
            "state_precision": options.state,
        },
        recompute=None if options.keep else "full",
        precision=options.precision,
    )
    fill_random(training)
    batches = iter(data.train_dataloader())
    seconds, tokens, losses = [], [], []
    for _ in range(STEPS + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = train(training, batches, mine, options.length)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        tokens.append(result.num_tokens)
        losses.append(round(result.loss, 4))
    step = statistics.median(seconds[2:])
    figures = {
        "card": torch.cuda.get_device_name(),
        "gpus": ranks,
        "length": options.length,
        "recompute": not options.keep,
        "precision": options.precision,
        "state_precision": options.state,
        "step_seconds": step,
        "tokens_per_second": statistics.median(tokens[2:]) / step,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "losses": losses,
    }
    data.close()
    if torch.distributed.get_rank() == 0:
        print(figures, flush=True)
        write_result(f"train_full_{ranks}gpu_{options.precision}", figures)


if __name__ == "__main__":
    main()
