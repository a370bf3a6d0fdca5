"""`neva-prep train --profile`: where the time of a step goes.

Some steps are timed part by part, which makes them wait for the device at each part; others are
traced by torch.profiler, which slows launches down. So neither sees what the other costs.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch.profiler import ProfilerActivity, record_function

from .advice import Setup, advise
from .build import Training
from .logs import StepRow
from .parts import Part, Stopwatch, marks_open
from .profile_figures import Figures, PartTime, Plan, summary_dict, summary_lines
from .timeline import STEP, Timeline, read_timeline

FOLDER = "profile"
"""In the run's folder."""
WARM_UP = 8
"""Steps that a process makes before they count: a GPU's kernels are compiled in them."""


def plan_steps(done: int, last: int) -> Plan:
    """Which steps are profiled: from the ninth of this process on, as far as there are enough.

    Args:
        done: the step that the process goes on from.
        last: of the run; behind `done`.

    Example:
        >>> plan = plan_steps(0, 1000)
        >>> plan.plain, plan.timed, plan.traced
        (range(9, 11), range(11, 14), range(14, 16))
    """
    count = last - done
    if count == 1:
        only = range(last, last + 1)
        return Plan(plain=range(0), timed=only, traced=only, warm=False)
    traced = 2 if count > 4 else 1
    timed = min(3, max(1, count - traced - WARM_UP))
    plain = min(2, max(0, count - traced - timed - WARM_UP))
    warm_up = min(WARM_UP, count - traced - timed - plain)
    first = done + warm_up + 1
    return Plan(
        plain=range(first, first + plain),
        timed=range(first + plain, first + plain + timed),
        traced=range(first + plain + timed, first + plain + timed + traced),
        warm=warm_up == WARM_UP,
    )


def open_profile(
    training: Training, setup: Setup, run: Path, *, done: int, last: int
) -> Profile | None:
    """The profile of a run; None where all its steps are made."""
    return Profile(training, setup, run, plan_steps(done, last)) if done < last else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What one rank has found."""

    parts: dict[Part, float]
    """Seconds of a timed step."""
    timeline: Timeline


class Profile:
    """Measures steps of a run; every rank of it has one, and calls it at the same steps."""

    def __init__(self, training: Training, setup: Setup, run: Path, plan: Plan) -> None:
        """Nothing is measured yet.

        Args:
            training: what is trained.
            setup: what advice depends on.
            run: folder of the run.
            plan: which steps.
        """
        self._training, self._setup, self._plan = training, setup, plan
        self._folder = run / FOLDER
        self._stopwatch = Stopwatch(_synchronize)
        self._rows: dict[int, StepRow] = {}
        self._trace: Any = None
        # It reports each start and stop on stderr, as if they were errors.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step of training."""
        with ExitStack() as stack:
            if number in self._plan.traced:
                stack.enter_context(self._traced())
            if number in self._plan.timed:
                stack.enter_context(self._timed())
            yield

    def after(self, number: int, row: StepRow | None) -> list[str]:
        """Behind each step, on all ranks.

        Args:
            number: of the step.
            row: what the log says of it; None on ranks that read no data.

        Returns:
            What rank 0 has to say: a summary behind the last of the steps, which is also written.
        """
        steps = self._plan.steps
        if row is not None and number in steps:
            self._rows[number] = row
        return self._finish() if number == steps[-1] else []

    def _finish(self) -> list[str]:
        distributed = torch.distributed
        writes = distributed.get_rank() == 0
        found: list[Any] = [None] * distributed.get_world_size()
        with _place_of_trace(self._folder if writes else None) as path:
            self._trace.export_chrome_trace(str(path))
            self._trace = None
            timeline = read_timeline(json.loads(path.read_text()))
            distributed.all_gather_object(found, _Measured(parts=self._parts(), timeline=timeline))
        if not writes:
            return []
        figures = self._figures(found)
        advice = advise(figures, self._setup)
        _write(self._folder / "summary.json", json.dumps(summary_dict(figures, advice), indent=2))
        return summary_lines(figures, advice, self._folder / "trace.json")

    @contextmanager
    def _timed(self) -> Iterator[None]:
        watch = self._stopwatch
        heads = [c.language_model.output_layer for c in self._training.chunks if c.post_process]
        # The fused decoder marks its loss itself, and does not call this layer.
        hooks = [head.register_forward_pre_hook(lambda *_: watch.go_over("loss")) for head in heads]
        try:
            with marks_open(watch.time), watch.time("other"):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _traced(self) -> Iterator[None]:
        self._trace = torch.profiler.profile(activities=_activities())
        _synchronize()
        marks = (
            nullcontext() if self._plan.timed == self._plan.traced else marks_open(record_function)
        )
        with self._trace, record_function(STEP), marks:
            yield
            _synchronize()

    def _parts(self) -> dict[Part, float]:
        return {name: s / len(self._plan.timed) for name, s in self._stopwatch.seconds.items()}

    def _figures(self, found: list[_Measured]) -> Figures:
        plan = self._plan
        rows = [self._rows[step] for step in plan.plain or plan.timed]
        known = [row.mfu for row in rows if row.mfu is not None]
        lines = [measured.timeline for measured in found]
        totals = [sum(measured.parts.values()) for measured in found]
        return Figures(
            device=torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            ranks=len(found),
            plan=plan,
            step_seconds=statistics.mean(row.seconds for row in rows),
            tokens_per_second=sum(row.tokens for row in rows) / sum(row.seconds for row in rows),
            fill=statistics.mean(row.fill for row in self._rows.values()),
            mfu=statistics.mean(known) if known else None,
            memory_bytes=max(row.memory_bytes for row in self._rows.values()),
            memory_size_bytes=_memory_size_bytes(),
            timed_seconds=statistics.mean(totals),
            parts={name: _part_time(name, found) for name in get_args(Part)},
            traced_seconds=statistics.mean(line.seconds for line in lines),
            kinds={kind: statistics.mean(t.kinds[kind] for t in lines) for kind in lines[0].kinds},
            hidden_seconds=statistics.mean(line.hidden for line in lines),
            has_kernels=all(line.has_kernels for line in lines),
        )


def profiled(profile: Profile | None, number: int) -> AbstractContextManager[None]:
    """Around a step of training, whether there is a profile or not."""
    return nullcontext() if profile is None else profile.step(number)


def _part_time(name: Part, found: list[_Measured]) -> PartTime:
    times = [measured.parts.get(name, 0.0) for measured in found]
    return PartTime(mean=statistics.mean(times), most=max(times))


def _activities() -> list[ProfilerActivity]:
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *gpu]


def _synchronize() -> None:
    """Wait for what this rank computes; what is sent beside it goes on."""
    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()


def _memory_size_bytes() -> int | None:
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


@contextmanager
def _place_of_trace(folder: Path | None) -> Iterator[Path]:
    """A file for a trace: one that stays in a folder, or one that is deleted again."""
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            yield Path(place) / "trace.json"
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "trace.json.tmp"
    yield part
    part.replace(folder / "trace.json")


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".tmp")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
