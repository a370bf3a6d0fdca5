"""Four ranks on loopback that run many cases, and what differs from one rank.

    python parallel_runner.py FOLDER NAME...

Megatron-core is imported once, then processes fork: a first one is the only rank and writes what
each variant should give; then four run the cases, and the checks of parallel_checks.py.
FOLDER/errors.<rank>.json gets the largest differences of each, or what was raised.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from parallel_cases import (
    CORE,
    LAYOUTS,
    ON_A_GPU,
    RANKS,
    REST,
    SHARED,
    VARIANTS,
    Case,
    draw_weights,
    load_batches,
    parts_of,
    place_of,
    train,
)
from parallel_checks import CHECKS, write_expected_evaluation
from ports import free_port
from torch import Tensor

from neva_prep.trainer.build import Training, build_training, whole_weights
from neva_prep.trainer.hf_load import own_piece
from neva_prep.trainer.parallel_config import ComputeConfig, ParallelConfig
from neva_prep.trainer.ranks import device, start_ranks, stop_ranks

LIMIT_SECONDS = 500


def main(folder: Path, names: list[str]) -> int:
    cases = [case for case in (*CORE, *REST, *ON_A_GPU) if case.name in names]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    checks = [name for name in CHECKS if name in names]
    variants = {case.variant for case in cases} | (
        {"padded-full", "packed-lora"} if checks else set()
    )
    if in_processes(1, write_expected, folder, sorted(variants)):
        return 1
    return in_processes(RANKS, run_all, folder, cases, checks)


def in_processes(count: int, work: Callable[..., None], *args: Any) -> int:
    """Run it on so many ranks; 1 if one of them failed or took too long."""
    # A process that has asked for GPUs cannot give them to its forks.
    context: Any = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    ports = [free_port() for _ in LAYOUTS]
    started = [
        context.Process(target=on_rank, args=(rank, count, ports, work, *args))
        for rank in range(count)
    ]
    for process in started:
        process.start()
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        codes = [process.exitcode for process in started]
        if None not in codes or any(codes):
            break
        time.sleep(0.05)
    # Where one failed, the others wait for it for ever.
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
    return int(any(process.exitcode for process in started))


def on_rank(rank: int, count: int, ports: list[int], work: Callable[..., None], *args: Any) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(ports[0]),
        PORTS=" ".join(map(str, ports)),
    )
    work(*args)


def write_expected(folder: Path, variants: list[str]) -> None:
    """What one rank gives, step by step."""
    batches = {rows: load_batches(folder, rows) for rows in ("padded", "packed")}
    torch.save(batches, folder / "batches.pt")
    start_ranks(ParallelConfig(), seed=1)
    for name in variants:
        variant = VARIANTS[name]
        training = build_training(
            variant.config,
            compute=ComputeConfig(precision=variant.precision),
            peft=variant.peft,
            load=lambda chunks: None,
        )
        weights = draw_weights(training)
        steps = [
            {"result": result, "grads": gradients(training), "weights": all_weights(training)}
            for training, result in train(None, variant, weights, batches[variant.rows])
        ]
        torch.save({"start": weights, "steps": steps}, folder / f"{name}.pt")
        if name == "padded-full":
            write_expected_evaluation(folder, weights)
    stop_ranks()


def run_all(folder: Path, cases: list[Case], checks: list[str]) -> None:
    """By layout, since each new set of groups takes time and threads."""
    batches = torch.load(folder / "batches.pt", weights_only=False)
    results = folder / f"errors.{os.environ['RANK']}.json"
    found: dict[str, Any] = {}
    for number, layout in enumerate(LAYOUTS):
        work: dict[str, Callable[[], dict[str, Any] | None]] = {
            case.name: partial(differences, case, folder, batches)
            for case in cases
            if case.layout == layout
        } | {
            name: partial(CHECKS[name][1], folder, layout)
            for name in checks
            if CHECKS[name][0] == layout
        }
        if not work:
            continue
        os.environ["MASTER_PORT"] = os.environ["PORTS"].split()[number]
        if SHARED:
            share_a_gpu()
        start_ranks(LAYOUTS[layout], seed=1)
        for name, run in work.items():
            begin = time.monotonic()
            try:
                found[name] = run() or {}
            except Exception:
                found[name] = {"raised": traceback.format_exc()}
            found[name]["seconds"] = time.monotonic() - begin
            part = results.with_suffix(".part")
            part.write_text(json.dumps(found))
            part.replace(results)
            if "raised" in found[name]:
                sys.exit(1)
        torch.distributed.barrier()
        stop_ranks()


def share_a_gpu() -> None:
    """Join over gloo, which reduces no list of tensors on a GPU: each by itself."""
    from megatron.core.distributed import param_and_grad_buffer

    alone = nullcontext(SimpleNamespace(wait=lambda: None))
    param_and_grad_buffer._coalescing_manager = lambda *args, **named: alone
    torch.distributed.init_process_group("gloo")


def differences(case: Case, folder: Path, batches: Any) -> dict[str, Any]:
    """The largest relative differences over all steps, and where they are."""
    variant = VARIANTS[case.variant]
    expected = torch.load(folder / f"{case.variant}.pt", weights_only=False, map_location=device())
    worst: dict[str, Any] = {"loss": 0.0, "norm": 0.0, "grad": 0.0, "weight": 0.0}
    steps = train(case, variant, expected["start"], batches[variant.rows])
    for (training, result), should in zip(steps, expected["steps"], strict=True):
        one = should["result"]
        assert result.num_trained_tokens == one.num_trained_tokens
        assert result.num_tokens == one.num_tokens
        worst["loss"] = max(worst["loss"], abs(result.loss / one.loss - 1))
        worst["norm"] = max(worst["norm"], abs(result.grad_norm / one.grad_norm - 1))
        if case.distributed:
            gather_gradients(training)
        for kind, here in (("grad", gradients(training)), ("weight", all_weights(training))):
            for name, (difference) in compare(training, here, should[f"{kind}s"]).items():
                if difference > worst[kind]:
                    worst[kind], worst[f"{kind}_name"] = difference, name
    return worst


def compare(
    training: Training, here: dict[str, Tensor], should: dict[str, Tensor]
) -> dict[str, float]:
    made = {}
    for chunk in training.chunks:
        for name, weight in chunk.named_parameters():
            place = place_of(chunk, name)
            # Keys' own bias cancels in the softmax; its gradient is rounding.
            if place not in here or place.endswith("k_proj.bias"):
                continue
            piece = own_piece(should[place], weight, parts_of(name))
            # Weights in eight bits rest in the computer's memory.
            difference = here[place].to(piece.device) - piece
            made[place] = (difference.abs().max() / piece.abs().max()).item()
    return made


def gradients(training: Training) -> dict[str, Tensor]:
    return {
        place_of(chunk, name): weight.main_grad.clone()
        for chunk in training.chunks
        for name, weight in chunk.named_parameters()
        if weight.requires_grad
    }


def all_weights(training: Training) -> dict[str, Tensor]:
    with whole_weights(training):
        return {
            place_of(chunk, name): weight.detach().clone()
            for chunk in training.chunks
            for name, weight in chunk.named_parameters()
        }


def gather_gradients(training: Training) -> None:
    """With a distributed optimizer each rank has the sums of its share only."""
    for model in training.models:
        for buffer in model.buffers:
            for bucket in buffer.buckets:
                group = buffer.data_parallel_group
                own = bucket.grad_data.view(group.size(), -1)[group.rank()].clone()
                torch.distributed.all_gather_into_tensor(bucket.grad_data, own, group=group)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
