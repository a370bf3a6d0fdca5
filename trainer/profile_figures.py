"""What a profile has found, and how it is shown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .parts import Part
from .timeline import Kind

_WIDTH = 100
_PARTS: tuple[tuple[Part, str], ...] = (
    ("data", "waiting for data"),
    ("batches", "sending batches"),
    ("vision", "vision encoder"),
    ("decoder", "decoder, forward"),
    ("loss", "loss, forward"),
    ("backward", "backward"),
    ("optimizer", "optimizer"),
    ("other", "other"),
)
_KINDS: tuple[tuple[Kind, str], ...] = (
    ("matrix", "matrix products"),
    ("attention", "attention"),
    ("elementwise", "elementwise and other"),
    ("copies", "copies"),
    ("communication", "communication"),
    ("idle", "idle"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which steps are measured, and how; numbers of the run's steps."""

    plain: range
    """Timed as a whole; none in a short run."""
    timed: range
    """Timed part by part."""
    traced: range
    """With torch.profiler; the last is kept, one before it only warms up."""
    warm: bool
    """Enough steps have gone before, in this process."""

    @property
    def steps(self) -> range:
        """All of them."""
        return range((self.plain or self.timed)[0], self.traced[-1] + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTime:
    """Seconds of a step that a part takes."""

    mean: float
    """Over ranks and steps."""
    most: float
    """Of the rank on which it takes longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured."""

    device: str
    """`CPU`, or the GPU's name."""
    ranks: int
    plan: Plan
    step_seconds: float
    """Of a plain step; of a timed one where there was none."""
    tokens_per_second: float
    """Positions of samples, in such steps."""
    fill: float
    """Share of the rows that samples fill."""
    mfu: float | None
    """In such steps; None where the device's peak is not known."""
    memory_bytes: int
    """Most that rank 0 has held."""
    memory_size_bytes: int | None
    """Of its GPU."""
    timed_seconds: float
    """Of a step timed part by part; the parts' means add up to it."""
    parts: dict[Part, PartTime]
    traced_seconds: float
    """Of the step that was traced; the kinds add up to it."""
    kinds: dict[Kind, float]
    """Seconds, mean over ranks."""
    hidden_seconds: float
    """Of communication behind other work."""
    has_kernels: bool
    """The kinds are of a GPU's kernels."""

    def part_share(self, name: Part) -> float:
        """Of a step, on the rank on which the part takes longest."""
        return self.parts[name].most / self.timed_seconds

    def kind_share(self, name: Kind) -> float:
        """Of the step that was traced."""
        return self.kinds[name] / self.traced_seconds

    @property
    def idle_share(self) -> float:
        """Of a step, without what tracing has added to it: it makes launches slower."""
        added = max(0.0, self.traced_seconds - self.step_seconds)
        return max(0.0, self.kinds["idle"] - added) / (self.traced_seconds - added)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Something to change."""

    rule: str
    """Its name."""
    text: str


def summary_dict(figures: Figures, advice: Sequence[Advice]) -> dict[str, Any]:
    """For programs; seconds throughout."""
    names = ("step_seconds", "tokens_per_second", "fill", "mfu", "memory_bytes")
    more = ("memory_size_bytes", "timed_seconds", "traced_seconds", "hidden_seconds")
    plan = figures.plan
    return {
        "schema_version": 1,
        "device": figures.device,
        "ranks": figures.ranks,
        "warm": plan.warm,
        "plain_steps": list(plan.plain),
        "timed_steps": list(plan.timed),
        "traced_step": plan.traced[-1],
        **{name: getattr(figures, name) for name in (*names, *more)},
        "parts": {name: {"mean": t.mean, "most": t.most} for name, t in figures.parts.items()},
        "kinds": dict(figures.kinds),
        "kinds_of": "kernels" if figures.has_kernels else "operators",
        "advice": [{"rule": item.rule, "text": item.text} for item in advice],
    }


def summary_lines(figures: Figures, advice: Sequence[Advice], trace: Path) -> list[str]:
    """For a terminal: about 20 lines."""
    lines = [_headline(figures), *_table(figures)]
    if figures.device != "CPU" and not figures.has_kernels:
        lines.append("The GPU's kernels could not be traced; KINETO_LOG_LEVEL=0 says why.")
    lines.append("what to change" if advice else "Nothing here is worth changing.")
    lines += [line for item in advice for line in _bullet(item.text)]
    lines.append(f"trace: {trace}, for ui.perfetto.dev or chrome://tracing; figures: summary.json")
    return lines


def _headline(figures: Figures) -> str:
    ranks = "1 rank" if figures.ranks == 1 else f"{figures.ranks} ranks"
    mfu = "not known here" if figures.mfu is None else f"{figures.mfu:.0%}"
    return (
        f"profile on {figures.device}, {ranks}: {_ms(figures.step_seconds)} ms a step, "
        f"{figures.tokens_per_second:,.0f} useful tokens/s, fill {figures.fill:.0%}, MFU {mfu}"
    )


def _table(figures: Figures) -> list[str]:
    """Parts of timed steps on the left, kinds of work of the traced one on the right."""
    left, right = _parts(figures), _kinds(figures)
    right += [""] * (len(left) - len(right))
    width = max(map(len, left)) + 4
    return [f"  {a:{width}}{b}".rstrip() for a, b in zip(left, right, strict=True)]


def _parts(figures: Figures) -> list[str]:
    several = figures.ranks > 1
    steps = figures.plan.timed
    lines = [f"{_steps(steps):18}{'ms':>9}  share" + ("  slowest rank" if several else "")]
    for name, label in _PARTS:
        found = figures.parts[name]
        line = f"{label:18}{_ms(found.mean):>9}  {found.mean / figures.timed_seconds:>5.0%}"
        lines.append(line + (f"{_ms(found.most):>14}" if several else ""))
    return [*lines, f"{'together':18}{_ms(figures.timed_seconds):>9}"]


def _kinds(figures: Figures) -> list[str]:
    of = "kernels" if figures.has_kernels else "operators"
    lines = [f"{f'step {figures.plan.traced[-1]:,}, {of}':22}{'ms':>9}  share"]
    for name, label in _KINDS:
        if name == "idle" and not figures.has_kernels:
            label = "outside of operators"
        lines.append(f"{label:22}{_ms(figures.kinds[name]):>9}  {figures.kind_share(name):>5.0%}")
    if figures.hidden_seconds > 0.01 * figures.traced_seconds:
        lines.append(f"{'communication hidden':22}{_ms(figures.hidden_seconds):>9}")
    return lines


def _steps(steps: range) -> str:
    if len(steps) == 1:
        return f"step {steps[0]:,}"
    return f"steps {steps[0]:,} to {steps[-1]:,}"


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}"


def _bullet(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="  - ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
