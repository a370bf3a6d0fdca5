"""Runs that end before their last step: stopped in a validation, or at losses beyond numbers."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_help import Job, job, rows, run_here

from neva_prep.errors import TrainingError
from neva_prep.trainer import loop, step
from neva_prep.trainer.logs import RunLog, StepRow

VALIDATED: Any = {"trainer__val_check_interval": 4, "data": {"num_val_samples": 32}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run without interruption, validated at its fourth step."""
    made = job(tmp_path_factory.mktemp("whole"), "whole", **VALIDATED)
    run_here(made)
    return made


def test_a_stop_does_not_wait_for_the_end_of_a_validation(
    tmp_path: Path, whole: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = job(tmp_path, "told", **VALIDATED)
    evaluate, calls = vars(loop)["evaluate_step"], 0

    def then_tell(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **named)

    monkeypatch.setattr(loop, "evaluate_step", then_tell)
    report = run_here(told)
    monkeypatch.undo()
    assert (calls, report.step, report.stopped) == (1, 4, True)
    assert "val_loss" not in (tmp_path / "told/train.jsonl").read_text()
    assert not run_here(told).stopped
    assert rows(told) == rows(whole)


def test_a_validation_loss_that_is_no_number_loses_no_step(
    tmp_path: Path, whole: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = job(tmp_path, "broken", **VALIDATED)
    loss = vars(step)["_loss"]

    def infinite(batch: Any, losses: torch.Tensor) -> Any:
        return loss(batch, losses if torch.is_grad_enabled() else losses * torch.inf)

    monkeypatch.setattr(step, "_loss", infinite)
    place = "validation behind step 4: the loss is not finite on samples .*; the last checkpoint is"
    with pytest.raises(TrainingError, match=f"{place} {tmp_path}/.*/step-00000004$"):
        run_here(broken)
    monkeypatch.undo()
    run_here(broken)
    assert rows(broken) == rows(whole)


def test_a_loss_that_is_no_number_lets_the_save_before_it_finish(
    tmp_path: Path, whole: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = job(tmp_path, "broken", log__ckpt__async_save=True, **VALIDATED)
    loss, log, good = vars(step)["_loss"], RunLog.step, True

    def then_break(self: Any, row: StepRow) -> None:
        nonlocal good
        log(self, row)
        good = row.step < 3

    monkeypatch.setattr(RunLog, "step", then_break)
    monkeypatch.setattr(step, "_loss", lambda b, losses: loss(b, losses / (1.0 if good else 0.0)))
    with pytest.raises(TrainingError, match=f"last checkpoint is {tmp_path}/.*/step-00000003$"):
        run_here(broken)
    monkeypatch.undo()
    run_here(broken)
    assert rows(broken) == rows(whole)
