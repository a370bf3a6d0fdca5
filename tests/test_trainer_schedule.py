"""The learning rate: its shape, and that it follows from the step alone."""

from itertools import pairwise

import pytest

from neva_prep.errors import ConfigError
from neva_prep.trainer.schedule import CosineAnnealing, learning_rate


def rates(schedule: CosineAnnealing, max_steps: int) -> list[float]:
    return [
        learning_rate(step, schedule, lr=1.0, max_steps=max_steps)
        for step in range(1, max_steps + 1)
    ]


def test_the_rate_rises_in_a_line_and_falls_to_the_least() -> None:
    found = rates(CosineAnnealing(warmup_steps=4, min_lr=0.1), 20)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(one > other for one, other in pairwise(found[3:]))
    assert found[11] == pytest.approx(0.55)  # Half way down.
    assert found[-1] == pytest.approx(0.1)


def test_constant_steps_stay_at_the_least() -> None:
    found = rates(CosineAnnealing(warmup_steps=2, constant_steps=5, min_lr=0.2), 12)
    assert found[6:] == pytest.approx([0.2] * 6)
    assert found[5] > 0.2


def test_without_warm_up_the_first_step_has_nearly_the_full_rate() -> None:
    found = rates(CosineAnnealing(warmup_steps=0), 100)
    assert 0.999 < found[0] < 1.0


def test_a_run_that_ends_while_it_warms_up_just_rises() -> None:
    assert rates(CosineAnnealing(warmup_steps=10), 3) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("field", ["warmup_steps", "constant_steps", "min_lr"])
def test_numbers_below_zero_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}=-1"):
        CosineAnnealing(**{field: -1})
