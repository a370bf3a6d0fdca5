"""What whoever writes shards is given, and the hold that a process has on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..journal import ROWS_FILE, WORK_FOLDER
from ..options import ConvertOptions
from ..plan import ShardPlan
from ..quarantine import Rejected
from ..shard import ShardMaker, ShardResult
from ..source import open_source
from ..stores.open import open_images
from ..upload import wait_for_room

Progress = Callable[[int, int, int], None]
"""Told bytes, records and rejections of a shard so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a process needs to write any shard of a plan."""

    source: Path
    source_name: str
    """File name that messages and quarantine rows give."""
    form: str
    """Of the source's records."""
    images: str
    options: ConvertOptions
    out: Path
    journal: Path
    """Where the plan is, and where results go."""

    @property
    def work(self) -> Path:
        """What was made of the source."""
        return self.journal / WORK_FOLDER

    @property
    def rows(self) -> Path:
        """File of the plan's rows."""
        return self.journal / ROWS_FILE


@dataclass(frozen=True, slots=True)
class Tally:
    """How far the work is."""

    bytes: int
    records: int
    rejected: int
    shard_ended: bool = False


class Worker:
    """One process's hold on a job: the source and the images, opened once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._maker = ShardMaker(
            open_source(job.source, job.form),
            job.source_name,
            open_images(job.images, job.work),
            job.options,
            job.out,
        )

    def make(
        self, shard: ShardPlan, rows: np.ndarray, progress: Progress
    ) -> tuple[ShardResult, list[Rejected]]:
        """Write one shard; see `ShardMaker.make`."""
        most = self.job.options.waiting_shards
        if most is not None:
            wait_for_room(self.job.out, most, lambda: progress(0, 0, 0))
        return self._maker.make(shard, rows, progress)
