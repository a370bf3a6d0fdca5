"""A model over several ranks learns what it learns on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from parallel_cases import CORE, RANKS, REST
from parallel_checks import CHECKS

LIMIT = 1e-5


def run_ranks(
    folder: Path, names: list[str], **environment: str
) -> dict[str, list[dict[str, Any]]]:
    """What each rank found, by name; a rank that stopped says why."""
    runner = Path(__file__).with_name("parallel_runner.py")
    done = subprocess.run(
        [sys.executable, str(runner), str(folder), *names],
        capture_output=True,
        text=True,
        timeout=560,
        env=os.environ | environment,
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for path in sorted(folder.glob("errors.*.json")):
        for name, result in json.loads(path.read_text()).items():
            found[name].append(result)
    raised = [r["raised"] for results in found.values() for r in results if "raised" in r]
    assert not raised, "\n".join(raised)
    assert done.returncode == 0, done.stderr[-3000:]
    return found


def check_differences(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, results in found.items():
        assert len(results) == RANKS, f"{name}: {len(results)} ranks"
        for result in results:
            for kind in ("loss", "norm", "grad", "weight") if "grad" in result else ():
                assert result[kind] <= LIMIT, f"{name}: {result}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


def test_four_ranks_in_any_layout_equal_one_rank(folder: Path) -> None:
    """Loss, gradients' norm, each gradient and each weight, of two steps, to 1e-5; the checks of
    parallel_checks.py; and what was cut is read by one rank."""
    check_differences(run_ranks(folder, [case.name for case in CORE] + list(CHECKS)))
    one_rank_reads_the_weights_of_four(folder)
    adapters_of_four_ranks_are_those_of_one(folder)


@pytest.mark.long
def test_all_that_can_be_trained_equals_one_rank_in_every_layout(folder: Path) -> None:
    check_differences(run_ranks(folder, [case.name for case in REST]))


def one_rank_reads_the_weights_of_four(folder: Path) -> None:
    """Weights of TP2 x PP2, adapters of a gated layer included, have the keys of any layout."""
    import torch
    from parallel_cases import VARIANTS
    from trainer_help import one_rank

    from neva_prep.trainer.build import build_training
    from neva_prep.trainer.weights import load_weights

    one_rank()
    variant = VARIANTS["packed-lora"]
    start = torch.load(folder / "packed-lora.pt", weights_only=False)["start"]
    training = build_training(variant.config, peft=variant.peft)
    load_weights(training.chunks, folder / "tp2-pp2-weights")
    for name, weight in training.chunks[0].named_parameters():
        assert torch.equal(weight, start[name]), name


def adapters_of_four_ranks_are_those_of_one(folder: Path) -> None:
    import torch
    from parallel_cases import VARIANTS, fill
    from safetensors.torch import load_file
    from trainer_help import one_rank

    from neva_prep.trainer.adapter import write_adapter
    from neva_prep.trainer.build import build_training

    one_rank()
    variant = VARIANTS["packed-lora"]
    start = torch.load(folder / "packed-lora.pt", weights_only=False)["start"]
    training = build_training(variant.config, peft=variant.peft)
    fill(training.chunks, start)
    write_adapter(training.chunks, folder / "one-adapter")
    ours, theirs = (
        load_file(folder / name / "adapter_model.safetensors")
        for name in ("one-adapter", "tp2-pp2-adapter")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
