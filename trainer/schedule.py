"""The learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineAnnealing:
    """Up in a straight line, level for a while, down in half a cosine, with NeMo's fields.

    It has no state: a run that is resumed goes on at the rate of its step.
    """

    warmup_steps: int = 150
    """Steps until the full rate is reached."""
    constant_steps: int = 0
    """Steps at the end that stay at `min_lr`."""
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers of steps below 0."""
        if min(self.warmup_steps, self.constant_steps) < 0 or self.min_lr < 0:
            raise ConfigError(
                f"lr_scheduler: warmup_steps={self.warmup_steps}, "
                f"constant_steps={self.constant_steps}, min_lr={self.min_lr}: must be 0 or more"
            )


def check_rate(schedule: CosineAnnealing, lr: float) -> None:
    """Refuse a full rate below the least one: the rate would rise where it is to fall.

    Raises:
        ConfigError: the message has both.
    """
    if lr < schedule.min_lr:
        raise ConfigError(
            f"optim.lr={lr} is below lr_scheduler.min_lr={schedule.min_lr}, so the rate would rise "
            f"to that behind the warm-up; make min_lr smaller: --set lr_scheduler.min_lr={lr / 10}"
        )


def learning_rate(step: int, schedule: CosineAnnealing, *, lr: float, max_steps: int) -> float:
    """The rate of a step.

    Args:
        step: from 1 to `max_steps`.
        schedule: its shape.
        lr: the full rate.
        max_steps: of the whole run.

    Example:
        >>> schedule = CosineAnnealing(warmup_steps=2, min_lr=0.1)
        >>> [round(learning_rate(s, schedule, lr=1.0, max_steps=6), 3) for s in range(1, 7)]
        [0.5, 1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step <= schedule.warmup_steps:
        return lr * step / schedule.warmup_steps
    falling = max_steps - schedule.constant_steps - schedule.warmup_steps
    share = min(1.0, (step - schedule.warmup_steps) / max(1, falling))
    return schedule.min_lr + (lr - schedule.min_lr) * (1 + math.cos(math.pi * share)) / 2
