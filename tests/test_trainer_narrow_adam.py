"""Moments in bfloat16: half the memory, and a run that learns and goes on as any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fit_help import Job, job, leave_ranks, losses, rows, run_here
from test_trainer_checkpoint import copy_until

from neva_prep.errors import ConfigError
from neva_prep.trainer.narrow_adam import MAX_BETA, NarrowAdamW
from neva_prep.trainer.optimizer import OptimizerSettings

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.1}


def trained(kind: type[torch.optim.AdamW], steps: int) -> tuple[torch.Tensor, torch.optim.AdamW]:
    """A line through points that come in one by one, by an optimizer."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.zeros(64, requires_grad=True)
    wanted = torch.randn(64, generator=draw)
    optimizer = kind([weight], **SETTINGS)
    for _ in range(steps):
        point = torch.randn(64, generator=draw)
        optimizer.zero_grad()
        (((weight - wanted) * point).sum() ** 2 / 64).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return weight.detach(), optimizer


def test_a_first_step_is_torchs() -> None:
    """Moments of one step are exact enough that nothing of them is lost before they are used."""
    narrow, wide = (trained(kind, 1)[0] for kind in (NarrowAdamW, torch.optim.AdamW))
    torch.testing.assert_close(narrow, wide, rtol=1e-6, atol=1e-8)


def test_it_goes_where_torchs_goes_in_half_the_memory() -> None:
    (narrow, optimizer), (wide, _) = (
        trained(kind, 300) for kind in (NarrowAdamW, torch.optim.AdamW)
    )
    (state,) = optimizer.state.values()
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    assert float(state["step"]) == 300
    assert wide.norm() > 2
    assert (narrow - wide).norm() < 0.02 * wide.norm()


def test_moments_too_slow_for_it_are_refused() -> None:
    OptimizerSettings(state_precision="bf16", betas=(0.9, MAX_BETA))
    with pytest.raises(ConfigError, match=r"betas of at most 0\.99, or fp32"):
        OptimizerSettings(state_precision="bf16", betas=(0.9, 0.999))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_run_learns_and_goes_on(tmp_path: Path, sharded: bool) -> None:
    def run(name: str, state_precision: str) -> Job:
        given = job(
            tmp_path,
            name,
            optim__state_precision=state_precision,
            optim__use_distributed_optimizer=sharded,
        )
        run_here(given)
        return given

    narrow, wide = run("narrow", "bf16"), run("wide", "fp32")
    assert losses(narrow) != losses(wide)
    assert losses(narrow) == pytest.approx(losses(wide), rel=5e-3)
    again = copy_until(narrow, "again", 3)
    run_here(again)
    assert rows(again) == rows(narrow)
    leave_ranks()
