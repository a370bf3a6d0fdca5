"""A process that runs jobs of fit_help; after a step it may stand still, to be killed there.

Rank 1 may fail instead, at the data of the step behind it.
"""

import json
import os
import sys
import time
from typing import Any

import torch
from fit_help import recipe_of

from neva_prep.errors import RecordError
from neva_prep.trainer.logs import RunLog, StepRow
from neva_prep.trainer.loop import fit
from neva_prep.trainer.watch import Watch


def stand_still_after(step: int) -> None:
    """Log that step, and make no other."""
    log = RunLog.step

    def then_wait(self: Any, row: StepRow) -> None:
        log(self, row)
        while row.step == step:
            time.sleep(0.05)

    RunLog.step = then_wait  # type: ignore[method-assign]


def fail_after(step: int) -> None:
    """Give no batch after as many; one makes a step."""
    read, batches = Watch.__next__, 0

    def then_fail(self: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches > step:
            raise RecordError("source.json:17: is broken")
        return read(self)

    Watch.__next__ = then_fail  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    stopped = False
    for given in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = str(given["port"])
        if given["pause_at"]:
            stand_still_after(given["pause_at"])
        if given.get("fail_at") and os.environ["RANK"] == "1":
            fail_after(given["fail_at"])
        stopped = fit(recipe_of(given)).stopped
    sys.exit(143 if stopped else 0)
