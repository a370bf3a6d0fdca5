"""A process that runs jobs of fit_help; after a step it may stand still, to be killed there.

Rank 1 may fail instead, at the data of the step behind it.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fit_help import recipe_of

from neva_prep.errors import RecordError
from neva_prep.trainer.logs import RunLog, StepRow
from neva_prep.trainer.loop import fit
from neva_prep.trainer.save_async import Writer
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


def hang_at_save(step: int) -> None:
    """Begin to save that step, and come to no end."""
    write = Writer.write

    def then_hang(self: Any, target: Path, parts: Any, commit: Any) -> None:
        hangs = target.name.endswith(f"{step:08d}")
        write(self, target, parts, partial(_hang, target) if hangs else commit)

    Writer.write = then_hang  # type: ignore[method-assign]


def _hang(target: Path) -> None:
    (target.with_name(f"{target.name}.tmp") / "ranks/hangs").touch()
    time.sleep(1000)


if __name__ == "__main__":
    torch.set_num_threads(1)
    stopped = False
    for given in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = str(given["port"])
        if given["pause_at"]:
            stand_still_after(given["pause_at"])
        if given.get("fail_at") and os.environ["RANK"] == "1":
            fail_after(given["fail_at"])
        if given.get("hang_at_save"):
            hang_at_save(given["hang_at_save"])
        stopped = fit(recipe_of(given)).stopped
    sys.exit(143 if stopped else 0)
