"""A Chrome trace of one step, summed by kinds of work.

On a GPU these are its kernels and copies; on a CPU the operators of the thread that trains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

STEP = "train_step"
"""The mark around the step, in the trace."""

Kind = Literal["matrix", "attention", "elementwise", "copies", "communication", "idle"]
"""Matrix products; attention; all other arithmetic; copies; communication between ranks; nothing:
the GPU has no work, or the CPU is outside of operators (Python, the loader)."""

_ORDER: tuple[Kind, ...] = ("matrix", "attention", "elementwise", "copies", "communication")
"""Where several run at once, the time is the first's: communication counts where it hides behind
nothing."""

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
"""What a trace calls a GPU's work."""

Span = tuple[float, float]
"""From and to, in microseconds."""

_KERNELS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("communication", ("nccl",)),
    # torch.compile's are named after all that they do, copies too.
    ("elementwise", ("triton_",)),
    ("attention", ("attention", "attn", "flash", "fmha", "sdpa")),
    ("matrix", ("gemm", "gemv", "nvjet", "cutlass", "xmma", "matmul", "conv2d", "fprop")),
    ("copies", ("copy", "memcpy", "memset", "catarray")),
)
_OPERATORS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("communication", ("c10d::",)),
    ("attention", ("attention",)),
    ("matrix", ("::mm", "addmm", "bmm", "matmul", "linear", "convolution", "::mv", "::dot")),
    ("copies", ("copy", "clone", "contiguous", "::cat", "::stack")),
)
"""Kinds by what a name has in it, in small letters; the first that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Where the time of a traced step went."""

    seconds: float
    kinds: dict[Kind, float]
    """Seconds; they add up to the step."""
    hidden: float
    """Seconds of communication behind other work."""
    has_kernels: bool
    """Whether these are a GPU's."""


def read_timeline(trace: Mapping[str, Any]) -> Timeline:
    """Sum a trace by kinds.

    Args:
        trace: Chrome's JSON as torch.profiler writes it, with a mark `STEP`.
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    step = next(
        event for event in events if event["name"] == STEP and event["cat"] == "user_annotation"
    )
    kernels = [event for event in events if event.get("cat") in _DEVICE]
    if kernels:
        spans = [(kind_of(event["name"], _KERNELS), _span(event)) for event in kernels]
    else:
        spans = [*_own_times(events, step["tid"]), *_waits(events)]
    return _account(spans, _span(step), has_kernels=bool(kernels))


def kind_of(name: str, kinds: Iterable[tuple[Kind, Sequence[str]]]) -> Kind:
    """The kind of a kernel or operator by its name."""
    small = name.lower()
    fitting = (kind for kind, parts in kinds if any(part in small for part in parts))
    return next(fitting, "elementwise")


def _span(event: Mapping[str, Any]) -> Span:
    return event["ts"], event["ts"] + event.get("dur", 0)


def _waits(events: Iterable[Mapping[str, Any]]) -> list[tuple[Kind, Span]]:
    """What gloo does, in threads of its own."""
    return [("communication", _span(e)) for e in events if e["name"].startswith("gloo:")]


def _own_times(events: Iterable[Mapping[str, Any]], thread: Any) -> Iterator[tuple[Kind, Span]]:
    """Pieces of a thread's time, each of the innermost operator there.

    What runs inside attention or communication counts as that.
    """
    ours = [e for e in events if e.get("cat") == "cpu_op" and e["tid"] == thread]
    ours.sort(key=lambda event: (event["ts"], -event.get("dur", 0)))
    open_ones: list[tuple[Kind, float]] = []
    at = -math.inf
    for start, end, name in [*((*_span(e), e["name"]) for e in ours), (math.inf, math.inf, "")]:
        while open_ones and open_ones[-1][1] <= start:
            kind, last = open_ones.pop()
            yield kind, (at, last)
            at = max(at, last)
        if open_ones:
            yield open_ones[-1][0], (at, start)
        outer = open_ones[-1][0] if open_ones else None
        kind = kind_of(name, _OPERATORS)
        open_ones.append((outer if outer in ("attention", "communication") else kind, end))
        at = start


def _account(spans: Iterable[tuple[Kind, Span]], step: Span, *, has_kernels: bool) -> Timeline:
    by_kind: dict[Kind, list[Span]] = {kind: [] for kind in _ORDER}
    for kind, (start, end) in spans:
        start, end = max(start, step[0]), min(end, step[1])
        if end > start:
            by_kind[kind].append((start, end))
    kinds: dict[Kind, float] = {}
    covered: list[Span] = []
    for kind in _ORDER:
        more = _union([*covered, *by_kind[kind]])
        kinds[kind] = (_length(more) - _length(covered)) / 1e6
        covered = more
    seconds = (step[1] - step[0]) / 1e6
    kinds["idle"] = seconds - _length(covered) / 1e6
    all_of_it = _length(_union(by_kind["communication"])) / 1e6
    return Timeline(
        seconds=seconds,
        kinds=kinds,
        hidden=all_of_it - kinds["communication"],
        has_kernels=has_kernels,
    )


def _union(spans: Sequence[Span]) -> list[Span]:
    """The same time in spans that do not touch.

    Example:
        >>> _union([(3, 4), (0, 2), (1, 3)])
        [(0, 4)]
    """
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _length(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans)
