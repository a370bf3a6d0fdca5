"""A process that runs jobs of fit_help; after a step it may stand still, to be killed there."""

import json
import os
import sys
import time
from typing import Any

import torch
from fit_help import recipe_of

from neva_prep.trainer.logs import RunLog, StepRow
from neva_prep.trainer.loop import fit


def stand_still_after(step: int) -> None:
    """Log that step, and make no other."""
    log = RunLog.step

    def then_wait(self: Any, row: StepRow) -> None:
        log(self, row)
        while row.step == step:
            time.sleep(0.05)

    RunLog.step = then_wait  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    stopped = False
    for given in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = str(given["port"])
        if given["pause_at"]:
            stand_still_after(given["pause_at"])
        stopped = fit(recipe_of(given)).stopped
    sys.exit(143 if stopped else 0)
