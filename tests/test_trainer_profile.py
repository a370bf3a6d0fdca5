"""Profiles: what is measured is right, what is advised deserves it, and training stays the same."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from click.testing import CliRunner
from fit_help import Job, job, losses, recipe_of, rows, run_elsewhere, run_here

from neva_prep.cli import root
from neva_prep.trainer import loop, model, parts, profile, step
from neva_prep.trainer.advice import Setup, advise
from neva_prep.trainer.build import build_training
from neva_prep.trainer.editable import finished
from neva_prep.trainer.logs import read_log
from neva_prep.trainer.parts import Part, Stopwatch, mark, marks_open
from neva_prep.trainer.profile import plan_steps
from neva_prep.trainer.profile_figures import Advice, Figures, PartTime, Plan, summary_lines
from neva_prep.trainer.timeline import _KERNELS, _OPERATORS, STEP, kind_of, read_timeline
from neva_prep.trainer.watch import Watch

pytestmark = pytest.mark.filterwarnings("ignore")


def profiled_job(folder: Path, name: str, **changes: Any) -> Job:
    settings = {"trainer__max_steps": 16, "log__ckpt__every_n_train_steps": 100}
    return job(folder, name, **settings | {"trainer__profile": True} | changes)


def folder_of(given: Job) -> Path:
    return Path(given["dir"], given["name"], "profile")


def summary_of(given: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder_of(given) / "summary.json").read_text())
    return found


# Which steps.


def test_steps_behind_a_warm_up_are_measured_each_in_one_way() -> None:
    plan = plan_steps(0, 5190)
    assert (plan.plain, plan.timed, plan.traced) == (range(9, 11), range(11, 14), range(14, 16))
    assert plan.warm
    assert plan_steps(100, 5190).traced == range(114, 116)


@pytest.mark.parametrize("count", range(1, 19))
def test_a_short_run_is_profiled_as_far_as_it_goes(count: int) -> None:
    plan = plan_steps(20, 20 + count)
    assert plan.timed and plan.traced
    ways = [*plan.plain, *plan.timed, *plan.traced]
    assert ways[-1] == 20 + min(count, 15)
    assert ways == [21] * 2 if count == 1 else len(set(ways)) == len(ways)
    assert ways[0] - 21 == min(max(0, count - 2 - (count > 4)), 8) if count > 1 else True
    assert plan.warm == (count >= 11)


# Marks.


def test_a_mark_does_nothing_without_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(Stopwatch, "_turn", fail)
    monkeypatch.setattr(profile, "_synchronize", fail)
    monkeypatch.setattr(torch.profiler, "profile", fail)
    assert mark("vision") is mark("loss")
    plain = profiled_job(tmp_path, "plain", trainer__profile=False, trainer__max_steps=1)
    run_here(plain)
    assert not folder_of(plain).exists()


def test_a_part_counts_without_those_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(parts, "time", SimpleNamespace(perf_counter=lambda: now))
    waited: list[float] = []
    watch = Stopwatch(lambda: waited.append(now))
    with marks_open(watch.time), mark("backward"):
        now += 1
        with mark("decoder"):
            now += 2
            with mark("vision"):
                now += 4
            now += 8
            watch.go_over("loss")
            now += 16
        now += 32
    assert watch.seconds == {"backward": 33, "decoder": 10, "vision": 4, "loss": 16}
    assert waited == [0, 1, 3, 7, 15, 31, 63]
    assert mark("loss") is mark("vision")


def test_marks_are_closed_when_a_step_fails() -> None:
    watch = Stopwatch(lambda: None)
    with pytest.raises(ZeroDivisionError), marks_open(watch.time), mark("loss"):
        _ = 1 / 0
    assert watch._inside == []
    assert mark("loss") is mark("vision")


# A run.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same run with a profile and without, and the weights of each."""
    folder = tmp_path_factory.mktemp("runs")
    found: dict[str, Any] = {}
    for name, profiles in (("without", False), ("with", True)):
        kept: list[Any] = []

        def keep(*args: Any, kept: list[Any] = kept, **kwargs: Any) -> Any:
            kept.append(build_training(*args, **kwargs))
            return kept[-1]

        given = profiled_job(folder, name, trainer__profile=profiles)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "build_training", keep)
            run_here(given)
        (training,) = kept
        weights = [w.detach().clone() for chunk in training.chunks for w in chunk.parameters()]
        found[name] = SimpleNamespace(job=given, weights=weights, training=training)
    return found


def test_a_profiled_run_trains_as_any_other(trained: dict[str, Any]) -> None:
    without, with_profile = trained["without"], trained["with"]
    assert len(losses(with_profile.job)) == 16
    assert rows(with_profile.job) == rows(without.job)
    pairs = zip(with_profile.weights, without.weights, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_nothing_of_it_stays_in_the_model(trained: dict[str, Any]) -> None:
    (chunk,) = trained["with"].training.chunks
    assert not chunk.language_model.output_layer._forward_pre_hooks
    assert mark("vision") is mark("loss")


def test_parts_add_up_to_the_step(trained: dict[str, Any]) -> None:
    found, log = summary_of(trained["with"].job), read_log(folder_of(trained["with"].job).parent)
    assert set(found["parts"]) == set(get_args(Part))
    total = sum(part["mean"] for part in found["parts"].values())
    assert total == pytest.approx(found["timed_seconds"], rel=1e-6)
    logged = [row["seconds"] for row in log if row["step"] in found["timed_steps"]]
    assert found["timed_steps"] == [11, 12, 13]
    # What a busy machine puts between two clocks is not the profile's.
    assert total == pytest.approx(sum(logged) / 3, rel=0.3)
    for name in ("data", "batches", "vision", "decoder", "loss", "backward", "optimizer"):
        assert found["parts"][name]["mean"] > 0, name
    assert sum(found["kinds"].values()) == pytest.approx(found["traced_seconds"], rel=1e-6)
    assert found["kinds"]["matrix"] > 0
    assert found["kinds"]["attention"] > 0


def test_the_headline_is_of_steps_that_nothing_slowed(trained: dict[str, Any]) -> None:
    found, log = summary_of(trained["with"].job), read_log(folder_of(trained["with"].job).parent)
    plain = [row for row in log if row["step"] in (9, 10)]
    seconds = sum(row["seconds"] for row in plain)
    assert found["plain_steps"] == [9, 10]
    assert found["step_seconds"] == pytest.approx(seconds / 2)
    assert found["tokens_per_second"] == pytest.approx(sum(r["tokens"] for r in plain) / seconds)
    assert found["fill"] == pytest.approx(sum(row["fill"] for row in log[8:15]) / 7)


def test_a_trace_has_one_step_and_its_parts(trained: dict[str, Any]) -> None:
    folder = folder_of(trained["with"].job)
    trace = json.loads((folder / "trace.json").read_text())
    names = [event["name"] for event in trace["traceEvents"] if event.get("ph") == "X"]
    assert names.count(STEP) == 1
    assert names.count("vision") == 4  # Two micro-batches: pixels normalized, then encoded.
    assert "aten::mm" in names
    assert sorted(path.name for path in folder.iterdir()) == ["summary.json", "trace.json"]


def test_time_is_counted_where_it_was_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that goes on where it is told to, an hour at a time."""
    now = 0

    def spend() -> None:
        nonlocal now
        now += 1

    def slow(where: Any, name: str) -> None:
        function = getattr(where, name)

        def slower(*args: Any, **kwargs: Any) -> Any:
            spend()
            return function(*args, **kwargs)

        monkeypatch.setattr(where, name, slower)

    from megatron.core.models.gpt import GPTModel
    from megatron.core.pipeline_parallel import schedules

    slow(step, "expand_batch")
    slow(step, "clip_gradients")
    slow(model.MCoreNevaModel, "embed_images")
    slow(model, "_put_in")
    slow(GPTModel, "compute_language_model_loss")
    slow(schedules, "backward_step")

    def slow_batches(batches: Any) -> Watch:
        def delayed() -> Iterator[Any]:
            for batch in batches:
                spend()
                yield batch

        return Watch(delayed())

    monkeypatch.setattr(loop, "Watch", slow_batches)
    monkeypatch.setattr(parts, "time", SimpleNamespace(perf_counter=lambda: now))
    given = profiled_job(tmp_path, "slow", trainer__max_steps=11)
    run_here(given)
    found = {name: part["mean"] for name, part in summary_of(given)["parts"].items()}
    two = ("data", "batches", "vision", "decoder", "loss", "backward")
    assert found == {"optimizer": 1, "other": 0} | dict.fromkeys(two, 2)
    assert "data" in {item["rule"] for item in summary_of(given)["advice"]}


@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_steps_are_shown_but_not_judged(
    tmp_path: Path, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    given = profiled_job(tmp_path, "short", trainer__max_steps=steps)
    run_here(given)
    found = summary_of(given)
    assert (found["timed_steps"], found["traced_step"]) == ([1], steps)
    assert {item["rule"] for item in found["advice"]} <= {"short", "fill"}
    assert "among the first steps" in capsys.readouterr().err


def test_a_run_that_has_ended_has_nothing_to_profile(tmp_path: Path) -> None:
    given = profiled_job(tmp_path, "ended", trainer__max_steps=1, trainer__profile=False)
    run_here(given)
    again = given | {"changes": given["changes"] | {"trainer.profile": True}}
    assert run_here(again).step == 1
    assert not folder_of(again).exists()


def test_several_ranks_finish_together_and_the_first_writes(tmp_path: Path) -> None:
    few = {"trainer__max_steps": 6}
    profiles = profiled_job(tmp_path, "data", **few)
    plain = profiled_job(tmp_path, "plain", trainer__profile=False, **few)
    halves = {"trainer__strategy__pipeline_model_parallel_size": 2}
    pipeline = profiled_job(tmp_path, "pipeline", **halves, **few)
    run_elsewhere([profiles, plain, pipeline], ranks=2)
    said = [(tmp_path / f"data-rank-{rank}.txt").read_text() for rank in range(2)]
    assert said[0].count("profile on CPU, 2 ranks") == 2
    assert "profile" not in said[1]
    assert rows(profiles) == rows(plain)
    for given in (profiles, pipeline):
        names = sorted(path.name for path in folder_of(given).iterdir())
        assert names == ["summary.json", "trace.json"]
        trace = json.loads((folder_of(given) / "trace.json").read_text())
        assert trace["distributedInfo"]["rank"] == 0
        found = summary_of(given)
        assert found["ranks"] == 2
        assert found["kinds"]["communication"] > 0
        total = sum(part["mean"] for part in found["parts"].values())
        assert total == pytest.approx(found["timed_seconds"], rel=1e-6)
    # One stage encodes images, the other takes the loss.
    staged = summary_of(pipeline)["parts"]
    assert staged["vision"]["most"] > 1.5 * staged["vision"]["mean"]
    assert staged["loss"]["most"] > 1.5 * staged["loss"]["mean"]


def test_the_command_has_a_flag_for_it(tmp_path: Path) -> None:
    command = ["train", "--recipe", "tiny", "--out", str(tmp_path), "--dry-run"]
    assert "profile=False," in CliRunner().invoke(root, command).stdout
    assert "profile=True," in CliRunner().invoke(root, [*command, "--profile"]).stdout
    changed = CliRunner().invoke(root, [*command, "--set", "trainer.profile=true"])
    assert "profile=True," in changed.stdout


# Traces.


def event(cat: str, name: str, start: float, end: float, thread: int = 1) -> dict[str, Any]:
    """Of a trace; times in milliseconds."""
    times = {"ts": 1e9 + start * 1000, "dur": (end - start) * 1000}
    return {"ph": "X", "cat": cat, "name": name, "tid": thread, **times}


def milliseconds(found: dict[Any, float]) -> dict[str, float]:
    return {name: round(seconds * 1000, 3) for name, seconds in found.items() if seconds > 1e-9}


def test_kernels_are_summed_by_kind_and_communication_where_it_hides_behind_nothing() -> None:
    trace = [
        event("user_annotation", STEP, 0, 100),
        event("gpu_user_annotation", STEP, 0, 100, thread=7),
        event("cpu_op", "aten::mm", 0, 90),
        event("kernel", "nvjet_tst_128x256", -10, 30, thread=7),  # Begins before the step.
        event("kernel", "ncclDevKernel_AllReduce_Sum_f32_RING_LL", 20, 60, thread=8),
        event("kernel", "void pytorch_flash::flash_fwd_kernel<cutlass::bf16>", 40, 50, thread=7),
        event("gpu_memcpy", "Memcpy HtoD", 70, 75, thread=7),
        event("kernel", "triton_poi_fused__to_copy_mul_0", 75, 80, thread=7),
        {"ph": "M", "name": "process_name"},
    ]
    found = read_timeline({"traceEvents": trace})
    assert found.seconds == pytest.approx(0.1)
    assert found.has_kernels
    assert milliseconds(dict(found.kinds)) == {
        "matrix": 30,
        "attention": 10,
        "elementwise": 5,
        "copies": 5,
        "communication": 20,
        "idle": 30,
    }
    assert found.hidden == pytest.approx(0.02)


def test_operators_count_by_the_innermost_and_those_of_other_threads_do_not() -> None:
    trace = [
        event("user_annotation", STEP, 0, 100),
        event("user_annotation", "vision", 0, 50),
        event("cpu_op", "aten::linear", 10, 40),
        event("cpu_op", "aten::addmm", 12, 38),
        event("cpu_op", "aten::copy_", 20, 25),
        event("cpu_op", "aten::scaled_dot_product_attention", 40, 60),
        event("cpu_op", "aten::bmm", 45, 55),
        event("cpu_op", "aten::add", 60, 62),
        event("cpu_op", "c10d::allreduce_", 62, 63),
        event("user_annotation", "gloo:all_reduce", 63, 90, thread=2),
        event("cpu_op", "aten::copy_", 70, 80, thread=2),
        event("cpu_op", "aten::mul", 85, 95),
    ]
    found = read_timeline({"traceEvents": trace})
    assert not found.has_kernels
    assert milliseconds(dict(found.kinds)) == {
        "matrix": 25,
        "copies": 5,
        "attention": 20,
        "elementwise": 12,
        "communication": 23,
        "idle": 15,
    }
    assert found.hidden == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "communication"),
        ("nvjet_hsh_192x192_64x4_2x1_v_bz_coopA_NNT", "matrix"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix"),
        ("void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<...>>", "matrix"),
        ("void gemvNSP_kernel<__nv_bfloat16, ...>", "matrix"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_6", "attention"),
        ("void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", "attention"),
        ("void at::native::elementwise_kernel<..., direct_copy_kernel_cuda...>", "copies"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<...>", "copies"),
        ("Memset (Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, FillFunctor<float>>", "elementwise"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_1", "elementwise"),
        ("_swiglu", "elementwise"),
        ("void at::native::multi_tensor_apply_kernel<...>", "elementwise"),
    ],
)
def test_kernels_have_the_kind_that_their_name_tells(name: str, kind: str) -> None:
    assert kind_of(name, _KERNELS) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::mkldnn_convolution", "matrix"),
        ("aten::_to_copy", "copies"),
        ("aten::resolve_conj", "elementwise"),
        ("c10d::_allgather_base_", "communication"),
    ],
)
def test_operators_have_the_kind_that_their_name_tells(name: str, kind: str) -> None:
    assert kind_of(name, _OPERATORS) == kind


# Advice.


def part_times(**shares: float) -> dict[Part, PartTime]:
    """Of a step of one second."""
    shares = {"vision": 0.05, "decoder": 0.3, "loss": 0.02, "optimizer": 0.03} | shares
    shares["backward"] = 1 - sum(shares.values())
    return {p: PartTime(mean=shares.get(p, 0), most=shares.get(p, 0)) for p in get_args(Part)}


HEALTHY = Figures(
    device="NVIDIA H100 80GB HBM3",
    ranks=8,
    plan=Plan(plain=range(9, 11), timed=range(11, 14), traced=range(14, 16), warm=True),
    step_seconds=1.0,
    tokens_per_second=20_000,
    fill=0.97,
    mfu=0.5,
    memory_bytes=70_000_000_000,
    memory_size_bytes=80_000_000_000,
    timed_seconds=1.0,
    parts=part_times(),
    traced_seconds=1.0,
    kinds={
        "matrix": 0.7,
        "attention": 0.1,
        "elementwise": 0.05,
        "copies": 0.03,
        "communication": 0.04,
        "idle": 0.08,
    },
    hidden_seconds=0.05,
    has_kernels=True,
)
SETUP = Setup(
    workers=2,
    packed=True,
    num_micro_batches=4,
    data_parallel=8,
    overlap_grad_reduce=True,
    distributed_optimizer=True,
)


def kinds(**changes: float) -> dict[str, Any]:
    """What goes to them is taken from matrix products."""
    made = dict(HEALTHY.kinds) | changes
    made["matrix"] = 1 - sum(seconds for kind, seconds in made.items() if kind != "matrix")
    return {"kinds": made}


CASES: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("data", {"parts": part_times(data=0.021)}, {}, "2% of a step: more --workers (now 2)"),
    (
        "fill",
        {"fill": 0.89},
        {"packed": False},
        "fill 89% of the rows, the rest is padding: --pack",
    ),
    ("fill", {"fill": 0.89}, {}, "longer packs (--seq-length)"),
    ("idle", kinds(idle=0.12), {}, "idle for 12% of a step beside waiting"),
    ("idle", kinds(idle=0.12), {"packed": False}, "(--micro-batch-size)"),
    (
        "vision",
        {"parts": part_times(vision=0.26)},
        {"vision_setting": "peft.freeze_vision_model"},
        "26% of a step, its backward pass not counted: peft.freeze_vision_model=true",
    ),
    ("vision", {"parts": part_times(vision=0.26)}, {}, "though it is frozen"),
    (
        "communication",
        kinds(communication=0.16),
        {"overlap_grad_reduce": False},
        "16% of a step, waiting for slower ranks included: --set optim.overlap_grad_reduce=true",
    ),
    (
        "communication",
        kinds(communication=0.16),
        {"tensor_parallel": 4},
        "trainer.strategy.tensor_model_parallel_size (now 4)",
    ),
    (
        "communication",
        kinds(communication=0.16),
        {"context_parallel": 2},
        "trainer.strategy.context_parallel_size (now 2)",
    ),
    (
        "communication",
        kinds(communication=0.16),
        {"pipeline_parallel": 2, "data_parallel": 4},
        "keep a pipeline filled (--global-batch-size; now 4",
    ),
    ("communication", kinds(communication=0.16), {}, "between two sums"),
    (
        "optimizer",
        {"parts": part_times(optimizer=0.16)},
        {"distributed_optimizer": False},
        "--set optim.use_distributed_optimizer=true shares it out over 8 ranks",
    ),
    ("optimizer", {"parts": part_times(optimizer=0.16)}, {}, "16% of a step: more micro-batches"),
    (
        "recompute",
        {"memory_bytes": 39_000_000_000},
        {"recompute": "full"},
        "(trainer.compute.recompute=full), and 49% of the GPU's memory was used at most: try "
        "selective or none",
    ),
    ("recompute", {"memory_bytes": 39_000_000_000}, {"recompute": "selective"}, "try none"),
    (
        "fused",
        {},
        {"not_fused": "it needs trainer.compute.precision=bf16 (now fp32)"},
        "the decoder (forward 30% of a step) does not run fused, which is faster: it needs trainer",
    ),
    ("fp8", {}, {"fp8_possible": True}, "70% of a step, and this GPU can make those with frozen"),
]


@pytest.mark.parametrize(("rule", "figures", "setup", "text"), CASES)
def test_a_rule_names_its_number_and_the_setting(
    rule: str, figures: dict[str, Any], setup: dict[str, Any], text: str
) -> None:
    (found,) = advise(replace(HEALTHY, **figures), replace(SETUP, **setup))
    assert found.rule == rule
    assert text in found.text


@pytest.mark.parametrize(
    ("figures", "setup"),
    [
        ({}, {}),
        ({"parts": part_times(data=0.019, vision=0.24, optimizer=0.14)}, {}),
        (kinds(communication=0.14, idle=0.095), {"overlap_grad_reduce": False}),
        ({"fill": 0.91}, {"packed": False}),
        # What the GPU waits for data is that rule's.
        (kinds(idle=0.11) | {"parts": part_times(data=0.02)}, {}),
        # Tracing alone has kept the GPU waiting.
        (kinds(idle=0.15) | {"step_seconds": 0.9}, {}),
        # A CPU is never idle in this sense, and multiplies no 8-bit floats.
        (kinds(idle=0.3) | {"has_kernels": False}, {"fp8_possible": True}),
        ({"memory_bytes": 41_000_000_000}, {"recompute": "full"}),
        ({"memory_bytes": 1_000_000_000, "memory_size_bytes": None}, {"recompute": "full"}),
        ({"memory_bytes": 1_000_000_000}, {}),
        (kinds(elementwise=0.4), {"fp8_possible": True}),
    ],
)
def test_what_is_well_is_left_alone(figures: dict[str, Any], setup: dict[str, Any]) -> None:
    assert advise(replace(HEALTHY, **figures), replace(SETUP, **setup)) == []


def test_first_steps_are_judged_by_what_is_no_time() -> None:
    early = replace(HEALTHY.plan, warm=False)
    slow = replace(HEALTHY, plan=early, fill=0.5, parts=part_times(data=0.3, vision=0.3))
    assert [item.rule for item in advise(slow, SETUP)] == ["short", "fill"]


def test_settings_that_advice_names_are_there() -> None:
    texts = " ".join(
        item.text
        for _, figures, setup, _ in CASES
        for item in advise(replace(HEALTHY, **figures), replace(SETUP, **setup))
    )
    recipe = finished(recipe_of(job(Path(), "x"), lora=True))
    named = {*re.findall(r"(?:trainer|optim|peft|model)(?:\.[a-z_0-9]+)+", texts)}
    assert len(named) >= 7
    for name in {*named, "model.config.freeze_vision_model"}:
        value: Any = recipe
        for field in name.split("."):
            value = getattr(value, field)
    options = CliRunner().invoke(root, ["train", "--help"]).stdout
    for option in {*re.findall(r"--[a-z-]+", texts)}:
        assert option in options


def test_a_summary_fits_a_screen() -> None:
    everything = [Advice(rule=rule, text="1234567 " * 20) for rule, *_ in CASES][:5]
    for figures in (HEALTHY, replace(HEALTHY, ranks=1, mfu=None, device="CPU")):
        lines = summary_lines(figures, everything, Path("runs/first/profile/trace.json"))
        assert len(lines) <= 25
        assert max(map(len, lines)) <= 110
    text = "\n".join(summary_lines(HEALTHY, [], Path("runs/first/profile/trace.json")))
    assert text.splitlines()[0] == (
        "profile on NVIDIA H100 80GB HBM3, 8 ranks: 1,000 ms a step, 20,000 useful tokens/s, "
        "fill 97%, MFU 50%"
    )
    assert re.search(r"vision encoder +50\.0 +5% +50\.0 +elementwise and other +50\.0 +5%", text)
    assert re.search(r"together +1,000$", text, re.MULTILINE)
    assert "Nothing here is worth changing." in text
    assert "ui.perfetto.dev or chrome://tracing" in text


def test_a_gpu_whose_kernels_cannot_be_traced_says_so() -> None:
    without = replace(HEALTHY, has_kernels=False)
    assert "could not be traced" in "\n".join(summary_lines(without, [], Path("trace.json")))
    on_cpu = replace(without, device="CPU")
    assert "could not be traced" not in "\n".join(summary_lines(on_cpu, [], Path("trace.json")))
