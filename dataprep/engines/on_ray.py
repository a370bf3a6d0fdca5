"""Ray's engine: each shard is a task on some node; the plan and the journal stay with the driver.

A task is given its rows of the plan and gives back what the journal keeps. It needs the source, the
images and the output under the same paths on every node, and neva-prep installed there.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from ...errors import ConfigError, NevaPrepError, ShardError
from ..options import ConvertOptions
from ..plan import ShardPlan, read_rows
from ..results import encode_result, save_encoded
from .job import Job, Tally, Worker

TASK_BYTES = 512 << 20
"""Memory that a task asks Ray for: what a worker was measured to need, with room for images."""
RETRIES = 5
"""Of a shard whose node or process was lost."""
_TICK_SECONDS = 0.2
_REPORT_SECONDS = 0.5
_CANCEL_SECONDS = 30.0
_KNOCK_SECONDS = 10.0
_OBJECT_STORE_BYTES = 256 << 20

Figures = tuple[int, int, int]
"""Bytes, records and rejections of a shard."""


def run_on_ray(job: Job, shards: Sequence[ShardPlan], tick: Callable[[Tally], None]) -> None:
    """Write shards on a Ray cluster; see `engine.run_shards`.

    Raises:
        ConfigError: Ray is not installed, no cluster answers, or none of its nodes has room.
        ShardError: a shard's process was lost too often.
    """
    with _cluster(job.options) as ray:
        _refuse_small(ray)
        board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1).remote()
        write = ray.remote(_write_shard).options(
            num_cpus=1, memory=TASK_BYTES, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        given = ray.put(_anywhere(job))
        queue = iter(enumerate(shards))
        waiting: dict[Any, tuple[int, ShardPlan]] = {}
        ended = np.zeros(3, np.int64)
        seen = _Seen(ray, board)
        try:
            while True:
                # A few tasks more than there are processors: rows are read when they are needed.
                for slot, shard in islice(queue, max(0, _most_tasks(ray) - len(waiting))):
                    rows = read_rows(job.rows, shard)
                    waiting[write.remote(given, board, slot, shard, rows)] = slot, shard
                if not waiting:
                    break
                done, _ = ray.wait(list(waiting), timeout=_TICK_SECONDS)
                for ref in done:
                    _, shard = waiting[ref]
                    result, rejected, figures = _result(ray, job, shard, ref)
                    save_encoded(job.journal, shard.name, result, rejected)
                    ended += figures
                    del waiting[ref]
                under_way = seen.sum({slot for slot, _ in waiting.values()})
                written, records, rejected_count = (ended + under_way).tolist()
                tick(Tally(written, records, rejected_count, shard_ended=bool(done)))
        finally:
            _cancel(ray, board, {slot: ref for ref, (slot, _) in waiting.items()})
            with suppress(Exception):
                ray.kill(board)


@contextmanager
def _cluster(options: ConvertOptions) -> Iterator[Any]:
    """Ray, connected: to the cluster that is named, or else to one on this machine for as long."""
    # Ray's processes inherit it: what is converted is nobody else's business.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--engine ray needs Ray: pip install 'neva-prep[ray]', here and on every node"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=options.workers,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--ray-address {address}: no Ray cluster answers there ({error}); start one with "
            "ray start --head, or leave the address out to use this machine alone"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See that somebody listens: Ray itself would try for many minutes, and print as it does."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()


def _anywhere(job: Job) -> Job:
    """The same job with paths that hold whatever folder a process works in."""
    return replace(
        job, source=job.source.absolute(), out=job.out.absolute(), journal=job.journal.absolute()
    )


def _refuse_small(ray: Any) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = (n.get("CPU", 0) >= 1 and n.get("memory", 0) >= TASK_BYTES for n in nodes)
    if not any(fit):
        raise ConfigError(
            f"--engine ray: none of the {len(nodes)} nodes offers Ray one processor and "
            f"{TASK_BYTES >> 20} MiB of memory, which a shard needs; start nodes with "
            "ray start --num-cpus and --memory"
        )


def _most_tasks(ray: Any) -> int:
    """Tasks to have under way: nodes may come and go."""
    return 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))


def _result(ray: Any, job: Job, shard: ShardPlan, ref: Any) -> tuple[bytes, bytes, Figures]:
    try:
        result: tuple[bytes, bytes, Figures] = ray.get(ref)
        return result
    except ray.exceptions.RayTaskError as error:
        # The task's own error, without the traceback of another machine.
        if isinstance(error.cause, NevaPrepError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise ShardError(
            f"{job.out / shard.name}: its process or node was lost {RETRIES + 1} times "
            f"({type(error).__name__}), perhaps for want of memory; give a node fewer processors "
            "(ray start --num-cpus), and go on with --resume"
        ) from error


def _cancel(ray: Any, board: Any, tasks: dict[int, Any]) -> None:
    """End tasks, by slot: first so that they remove what they were writing.

    Those that have not begun are told by the board when they do. To cancel a task while it is
    handed to its worker ends this process: "Tried to complete task that was not pending".
    """
    if not tasks:
        return
    begun = set(tasks)
    with suppress(ray.exceptions.RayError):
        begun &= ray.get(board.stop.remote(), timeout=_KNOCK_SECONDS)
    _end(ray, [tasks[slot] for slot in begun], force=False)
    _, left = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=_CANCEL_SECONDS)
    if left:
        _end(ray, left, force=True)
        ray.wait(left, num_returns=len(left), timeout=_CANCEL_SECONDS)


def _end(ray: Any, refs: list[Any], *, force: bool) -> None:
    for ref in refs:
        # It may have ended by itself.
        with suppress(Exception):
            ray.cancel(ref, force=force)


class _Board:
    """An actor where tasks note how far they are, and learn that they are not wanted any more."""

    def __init__(self) -> None:
        self._figures: dict[int, Figures] = {}
        self._begun: set[int] = set()
        self._stopped = False

    def begin(self, slot: int) -> bool:
        """A task is about to work; whether it is still wanted."""
        if not self._stopped:
            self._begun.add(slot)
        return not self._stopped

    def stop(self) -> set[int]:
        """No further task is to begin; those that have."""
        self._stopped = True
        return self._begun

    def note(self, slot: int, figures: Figures) -> None:
        self._figures[slot] = figures

    def read(self) -> dict[int, Figures]:
        return self._figures


class _Seen:
    """What was last read of the board; reading never waits, and it may have to begin anew."""

    def __init__(self, ray: Any, board: Any) -> None:
        self._ray, self._board = ray, board
        self._asked = board.read.remote()
        self._figures: dict[int, Figures] = {}

    def sum(self, slots: set[int]) -> np.ndarray:
        """int64[3]: of the shards under way."""
        done, _ = self._ray.wait([self._asked], timeout=0)
        if done:
            with suppress(self._ray.exceptions.RayError):
                self._figures = self._ray.get(self._asked)
            self._asked = self._board.read.remote()
        total = np.zeros(3, np.int64)
        for slot in slots & self._figures.keys():
            total += self._figures[slot]
        return total


def _is_wanted(board: Any, slot: int) -> bool:
    """Whether a task may begin; where the board is being started anew, it may."""
    import ray

    try:
        wanted: bool = ray.get(board.begin.remote(slot))
    except ray.exceptions.RayError:
        return True
    return wanted


_held: Worker | None = None


def _write_shard(
    job: Job, board: Any, slot: int, shard: ShardPlan, rows: np.ndarray
) -> tuple[bytes, bytes, Figures]:
    """The task: what the journal is to keep of a shard, and its figures."""
    global _held
    if not job.options.dry_run and not job.out.is_dir():
        raise ConfigError(
            f"{job.out}: the node {socket.gethostname()} does not see its folder, and all nodes "
            "must; give --out on a disk that they share, or --spool, where --out is an address"
        )
    if not _is_wanted(board, slot):
        raise ShardError(f"{job.out / shard.name}: was given up before it was begun")
    if _held is None or _held.job != job:
        _held = Worker(job)
    noted = 0.0

    def progress(written: int, records: int, rejected: int) -> None:
        nonlocal noted
        if (now := time.monotonic()) - noted > _REPORT_SECONDS:
            noted = now
            board.note.remote(slot, (written, records, rejected))

    result, rejected = _held.make(shard, rows, progress)
    return *encode_result(result, rejected), (result.bytes, result.records, result.rejected)
