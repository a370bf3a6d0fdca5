"""Runs of the tiny recipe: in this process, or in others that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from ports import free_port

from neva_prep.trainer import fit
from neva_prep.trainer.editable import Editable
from neva_prep.trainer.logs import read_log
from neva_prep.trainer.loop import FitReport
from neva_prep.trainer.recipes import tiny

Job = dict[str, Any]
"""dir, name, changes (of dotted names), data (of the mock data module), pause_at (a step)."""
_BASE = {
    "trainer.max_steps": 6,
    "trainer.val_check_interval": 0,
    "log.ckpt.every_n_train_steps": 3,
    "log.ckpt.keep_last": 0,
    "lr_scheduler.warmup_steps": 2,
}


def job(folder: Path, name: str, *, data: Any = None, pause_at: int = 0, **changes: Any) -> Job:
    """A run; `__` in the name of a change stands for a dot."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return {
        "dir": str(folder),
        "name": name,
        "changes": _BASE | named,
        "data": data or {},
        "pause_at": pause_at,
    }


def recipe_of(given: Job, *, lora: bool = False) -> Editable:
    """Its recipe."""
    made = tiny.finetune_recipe(
        dir=given["dir"], name=given["name"], peft_scheme="lora" if lora else "none"
    )
    world = int(os.environ.get("WORLD_SIZE", 1))
    made.data = tiny.mock_data(**given["data"])
    return made.replace({"trainer.devices": world} | given["changes"])


def run_here(given: Job) -> FitReport:
    """Run it in this process, whose groups of ranks other tests may have left."""
    leave_ranks()
    # As elsewhere: sums over another number of threads differ in their last bit.
    torch.set_num_threads(1)
    return fit(recipe_of(given))


def leave_ranks() -> None:
    """As if no test had started ranks here."""
    if torch.distributed.is_initialized():
        from neva_prep.trainer.ranks import stop_ranks

        stop_ranks()


def start_ranks_elsewhere(jobs: list[Job], ranks: int = 1) -> list[subprocess.Popen[bytes]]:
    """Processes that run the jobs one after the other, all ranks together.

    What they say goes to a file each: a pipe would be held open by workers of a killed one.
    """
    # A port for each: ranks that are still leaving one job would meet those of the next.
    for given in jobs:
        given["port"] = free_port()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": str(ranks),
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    started = []
    for rank in range(ranks):
        with _said(jobs, rank).open("wb") as said:
            started.append(
                subprocess.Popen(
                    [sys.executable, Path(__file__).with_name("fit_runner.py"), json.dumps(jobs)],
                    env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                )
            )
    return started


def run_elsewhere(jobs: list[Job], ranks: int) -> None:
    """Run jobs on several ranks, to their end."""
    processes = start_ranks_elsewhere(jobs, ranks)
    try:
        codes = [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = [_said(jobs, rank).read_text()[-3000:] for rank in range(ranks)]
    assert codes == [0] * ranks, "\n".join(said)


def _said(jobs: list[Job], rank: int) -> Path:
    return Path(jobs[0]["dir"]) / f"{jobs[0]['name']}-rank-{rank}.txt"


def losses(given: Job) -> list[float]:
    """Of each step."""
    return [row["loss"] for row in read_log(Path(given["dir"]) / given["name"])]


def rows(given: Job) -> list[tuple[int, float, float, list[str]]]:
    """Of each step: its number, loss, gradient norm and keys."""
    return [
        (row["step"], row["loss"], row["grad_norm"], row["__keys__"])
        for row in read_log(Path(given["dir"]) / given["name"])
    ]
