"""Running the shards of a plan: here and now, by several processes, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .engines.job import Job, Tally
from .engines.local import run_here, run_in_pool
from .plan import ShardPlan


def run_shards(job: Job, shards: Sequence[ShardPlan], tick: Callable[[Tally], None]) -> None:
    """Write shards; each result goes to the journal.

    Args:
        job: the conversion; its options say where the work is done.
        shards: those still to be written.
        tick: called several times a second; what it raises ends the work.

    Raises:
        NevaPrepError: from a shard, or ShardError where a worker process died.
    """
    if job.options.engine == "ray":
        # Ray takes half a second to import.
        from .engines.on_ray import run_on_ray

        run_on_ray(job, shards, tick)
        return
    workers = min(job.options.workers, len(shards))
    if workers <= 1:
        run_here(job, shards, tick)
    else:
        run_in_pool(job, shards, workers, tick)
