"""What to change in a run: rules on the figures of its profile, each with its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .profile_figures import Advice, Figures

MAX_DATA = 0.02
MIN_FILL = 0.90
MAX_IDLE = 0.10
MAX_VISION = 0.25
MAX_COMMUNICATION = 0.15
MAX_OPTIMIZER = 0.15
MAX_MEMORY = 0.50
"""Of the GPU, while layers are computed again."""
MIN_MATRIX = 0.40
"""Share of matrix products from which fp8 is worth a try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the rules ask of a run's settings."""

    workers: int
    packed: bool
    num_micro_batches: int
    data_parallel: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    overlap_grad_reduce: bool = False
    distributed_optimizer: bool = False
    recompute: str | None = None
    vision_setting: str | None = None
    """What freezes the vision encoder; None where it is frozen."""
    not_fused: str | None = None
    """Why the decoder does not run fused on this GPU; None where it does, and on a CPU."""
    fp8_possible: bool = False
    """The GPU can, the decoder runs fused in bf16, and its weights are frozen."""


Rule = Callable[[Figures, Setup], str | None]


def advise(figures: Figures, setup: Setup) -> list[Advice]:
    """What to change, if anything; times count only behind a warm-up."""
    if not figures.plan.warm:
        short = (
            "these are among the first steps of this process, which are slower: let it make 11 or "
            "more (trainer.max_steps) for times to judge by"
        )
        return [Advice(rule="short", text=short), *_asked(_SETTLED, figures, setup)]
    return _asked({**_TIMES, **_SETTLED}, figures, setup)


def _asked(rules: dict[str, Rule], figures: Figures, setup: Setup) -> list[Advice]:
    found = ((name, rule(figures, setup)) for name, rule in rules.items())
    return [Advice(rule=name, text=text) for name, text in found if text is not None]


def _data(figures: Figures, setup: Setup) -> str | None:
    share = figures.part_share("data")
    if share <= MAX_DATA:
        return None
    return f"waiting for data takes {share:.0%} of a step: more --workers (now {setup.workers})"


def _vision(figures: Figures, setup: Setup) -> str | None:
    share = figures.part_share("vision")
    if share <= MAX_VISION:
        return None
    found = f"the vision encoder takes {share:.0%} of a step"
    if setup.vision_setting is not None:
        return f"{found}, its backward pass not counted: {setup.vision_setting}=true freezes it"
    return f"{found}, though it is frozen: fewer tiles or images a sample"


def _communication(figures: Figures, setup: Setup) -> str | None:
    share = figures.kind_share("communication")
    if share <= MAX_COMMUNICATION:
        return None
    found = f"communication takes {share:.0%} of a step, waiting for slower ranks included"
    return f"{found}: {_less_communication(setup)}"


def _less_communication(setup: Setup) -> str:
    if setup.data_parallel > 1 and not setup.overlap_grad_reduce:
        return "--set optim.overlap_grad_reduce=true sums gradients while others are computed"
    if setup.tensor_parallel > 1:
        name, size = "tensor_model_parallel_size", setup.tensor_parallel
        return f"a smaller trainer.strategy.{name} (now {size}), where memory allows"
    if setup.context_parallel > 1:
        name, size = "context_parallel_size", setup.context_parallel
        return f"a smaller trainer.strategy.{name} (now {size}), where memory allows"
    count = setup.num_micro_batches
    if setup.pipeline_parallel > 1:
        return (
            f"more micro-batches keep a pipeline filled (--global-batch-size; now {count} a step)"
        )
    return f"more micro-batches between two sums (--global-batch-size; now {count} a step)"


def _idle(figures: Figures, setup: Setup) -> str | None:
    share = figures.idle_share - figures.part_share("data")
    if not figures.has_kernels or share <= MAX_IDLE:
        return None
    longer = "longer packs (--seq-length)" if setup.packed else "larger ones (--micro-batch-size)"
    return (
        f"the GPU is idle for {share:.0%} of a step beside waiting for data: more micro-batches a "
        f"step (--global-batch-size; now {setup.num_micro_batches}) or {longer}"
    )


def _optimizer(figures: Figures, setup: Setup) -> str | None:
    share = figures.part_share("optimizer")
    if share <= MAX_OPTIMIZER:
        return None
    found = f"the optimizer takes {share:.0%} of a step"
    if setup.data_parallel > 1 and not setup.distributed_optimizer:
        ranks = setup.data_parallel
        return (
            f"{found}: --set optim.use_distributed_optimizer=true shares it out over {ranks} ranks"
        )
    count = setup.num_micro_batches
    return f"{found}: more micro-batches for each update (--global-batch-size; now {count})"


def _recompute(figures: Figures, setup: Setup) -> str | None:
    size = figures.memory_size_bytes
    if setup.recompute is None or size is None or figures.memory_bytes > MAX_MEMORY * size:
        return None
    less = "selective or none" if setup.recompute == "full" else "none"
    return (
        f"layers are computed again in the backward pass (trainer.compute.recompute="
        f"{setup.recompute}), and {figures.memory_bytes / size:.0%} of the GPU's memory was used "
        f"at most: try {less}"
    )


def _fp8(figures: Figures, setup: Setup) -> str | None:
    share = figures.kind_share("matrix")
    if not setup.fp8_possible or not figures.has_kernels or share <= MIN_MATRIX:
        return None
    return (
        f"matrix products take {share:.0%} of a step, and this GPU can make those with frozen "
        "weights in 8 bits: --set trainer.compute.precision=fp8 (losses differ slightly)"
    )


def _fill(figures: Figures, setup: Setup) -> str | None:
    if figures.fill >= MIN_FILL:
        return None
    found = f"samples fill {figures.fill:.0%} of the rows"
    if not setup.packed:
        return f"{found}, the rest is padding: --pack puts several into one row"
    return (
        f"{found}: longer packs (--seq-length), or more samples to choose from "
        "(packing_buffer_size of the data module)"
    )


def _fused(figures: Figures, setup: Setup) -> str | None:
    if setup.not_fused is None:
        return None
    share = figures.part_share("decoder")
    return (
        f"the decoder (forward {share:.0%} of a step) does not run fused, which is faster: "
        f"{setup.not_fused}"
    )


_TIMES: dict[str, Rule] = {
    "data": _data,
    "communication": _communication,
    "idle": _idle,
    "vision": _vision,
    "optimizer": _optimizer,
    "fp8": _fp8,
}
_SETTLED: dict[str, Rule] = {"fill": _fill, "recompute": _recompute, "fused": _fused}
"""These hold in the first steps, too."""
