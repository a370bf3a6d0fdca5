"""Checkpoints: a run that was killed goes on as if it had not been, in any layout over ranks."""

import json
import os
import resource
import shutil
import signal
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fit_help import (
    Job,
    job,
    leave_ranks,
    losses,
    recipe_of,
    rows,
    run_elsewhere,
    run_here,
    start_ranks_elsewhere,
)
from killed import run_killed

from neva_prep.cli import root
from neva_prep.errors import ConfigError, TrainingError
from neva_prep.trainer import fit
from neva_prep.trainer.checkpoint import (
    MARKER,
    checkpoint_path,
    checkpoints_of,
    clear_unfinished,
    prune,
)
from neva_prep.trainer.editable import finished
from neva_prep.trainer.logs import RunLog, StepRow, read_log
from neva_prep.trainer.start import find_start
from neva_prep.trainer.step import train_step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Job:
    """A run without interruption, saved at its third and sixth step."""
    made = job(folder, "whole")
    run_here(made)
    return made


def copy_until(given: Job, name: str, step: int, **changes: Any) -> Job:
    """A run that stands where another one stood after a step."""
    source, target = Path(given["dir"]) / given["name"], Path(given["dir"]) / name
    shutil.copytree(source, target)
    for checkpoint in checkpoints_of(target):
        if checkpoint.name != f"step-{step:08d}":
            shutil.rmtree(checkpoint)
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return given | {"name": name, "changes": given["changes"] | named}


def wait_for_step(given: Job, step: int) -> None:
    log = Path(given["dir"]) / given["name"] / "train.jsonl"
    for _ in range(2000):
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} never came")


def test_a_run_that_was_killed_goes_on_with_the_same_losses_and_samples(
    folder: Path, whole: Job
) -> None:
    killed = job(folder, "killed", pause_at=5)
    (process,) = start_ranks_elsewhere([killed])
    wait_for_step(killed, 5)
    process.kill()
    process.wait()
    assert [row[0] for row in rows(killed)] == [1, 2, 3, 4, 5]
    run_here(killed)
    assert rows(killed) == rows(whole)


def test_sigterm_saves_and_the_run_goes_on_from_there(
    folder: Path, whole: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = job(folder, "told")
    log = RunLog.step

    def then_tell(self: Any, row: StepRow) -> None:
        log(self, row)
        if row.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "step", then_tell)
    report = run_here(told)
    monkeypatch.undo()
    assert (report.step, report.stopped) == (4, True)
    assert report.checkpoint.name == "step-00000004"
    assert not run_here(told).stopped
    assert rows(told) == rows(whole)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_to_workers_too_saves_and_ends_with_143(folder: Path) -> None:
    """As schedulers send it: to every process of the run."""
    group = job(folder, "group", data={"num_workers": 1}, trainer__max_steps=100_000)
    (process,) = start_ranks_elsewhere([group])
    wait_for_step(group, 4)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    last = rows(group)[-1][0]
    assert checkpoints_of(folder / "group")[-1].name == f"step-{last:08d}"


def test_what_was_not_finished_is_no_checkpoint(folder: Path, whole: Job) -> None:
    again = copy_until(whole, "unfinished", 3)
    run = folder / "unfinished"
    good = checkpoints_of(run)[0]
    shutil.copytree(good, good.with_name("step-00000005.tmp"))
    shutil.copytree(good, good.with_name("step-00000006"))
    (good.with_name("step-00000006") / "training.json").unlink()
    assert checkpoints_of(run) == [good]
    run_here(again)
    assert rows(again) == rows(whole)


@pytest.mark.parametrize("behind", [False, True])
def test_what_a_killed_save_has_left_is_deleted_and_what_is_being_written_is_not(
    folder: Path, capfd: pytest.CaptureFixture[str], behind: bool
) -> None:
    """Killed at its second save, and looked at while that is going on."""
    name = f"leftover-{behind}"
    killed = job(folder, name, log__ckpt__async_save=behind, trainer__max_steps=8)
    (process,) = start_ranks_elsewhere([killed | {"hang_at_save": 6}])
    part = checkpoint_path(folder / name, 6).with_name("step-00000006.tmp")
    try:
        for _ in range(2000):
            if (part / "ranks/hangs").exists():
                break
            time.sleep(0.05)
        (line,) = clear_unfinished(folder / name)
        assert line == f"{part}: another process seems to write it; delete it if none does"
        assert part.is_dir()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # Later saves have other names.
    killed["changes"]["log.ckpt.every_n_train_steps"] = 4
    report = run_here(killed)
    assert f"{part}: deleted" in capfd.readouterr().err
    names = sorted(path.name for path in report.checkpoint.parent.iterdir())
    assert names == ["step-00000003", "step-00000004", "step-00000008"]
    assert not list(report.checkpoint.glob("lock"))


def test_a_deletion_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    for step in (1, 2):
        path = checkpoint_path(tmp_path, step)
        path.mkdir(parents=True)
        (path / MARKER).write_text("{}")
        (path / "weights").write_text("")
    last = checkpoint_path(tmp_path, 2)
    assert run_killed(2, lambda: prune(tmp_path, last, keep_last=1))
    assert len(list(last.parent.iterdir())) == 2
    assert checkpoints_of(tmp_path) == [last]
    clear_unfinished(tmp_path)
    assert list(last.parent.iterdir()) == [last]


@pytest.mark.parametrize("call", ["rename", "rmdir"])
def test_an_old_checkpoint_that_cannot_be_deleted_is_told_and_ends_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    call: str,
) -> None:
    few = job(
        folder,
        f"kept-{call}",
        trainer__max_steps=3,
        log__ckpt__every_n_train_steps=1,
        log__ckpt__keep_last=1,
    )
    old, true = checkpoint_path(folder / few["name"], 1), getattr(os, call)
    stuck = {"rename": old.name, "rmdir": f"{old.name}.tmp"}[call]

    def refused(path: Any, *rest: Any, **named: Any) -> Any:
        if Path(path).name == stuck:
            raise PermissionError(13, "Permission denied", str(path))
        return true(path, *rest, **named)

    monkeypatch.setattr(os, call, refused)
    report = run_here(few)
    monkeypatch.undo()
    # The next one went all the same.
    kept = {"rename": [old, report.checkpoint], "rmdir": [report.checkpoint]}
    assert checkpoints_of(folder / few["name"]) == kept[call]
    said = capfd.readouterr().err
    assert f"{old}: cannot be deleted ([Errno 13] Permission denied" in said
    assert f"finished at step 3; saved as {report.checkpoint}" in said


def test_only_the_last_checkpoints_are_kept(folder: Path) -> None:
    few = job(folder, "few", log__ckpt__every_n_train_steps=1, log__ckpt__keep_last=2)
    report = run_here(few)
    names = [path.name for path in checkpoints_of(folder / "few")]
    assert names == ["step-00000005", "step-00000006"]
    assert report.checkpoint.name == names[-1]
    assert sorted(path.name for path in report.checkpoint.parent.iterdir()) == names


def test_all_of_a_checkpoint_is_on_the_disk_before_it_gets_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a power cut could leave a checkpoint of empty files."""
    target = checkpoint_path(folder / "synced", 1)
    part = target.with_name(target.name + ".tmp")
    synced: list[Path] = []
    before: dict[str, list[Path]] = {}
    fsync, rename = os.fsync, os.rename

    def note(file: int) -> None:
        fsync(file)
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")))
        if (part / MARKER).exists():
            before.setdefault("marker", synced[:-1])

    def named(source: Any, name: Any) -> None:
        before["name"] = list(synced)
        rename(source, name)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", named)
    run_here(job(folder, "synced", trainer__max_steps=1))
    monkeypatch.undo()
    whole = {part, *(part / path.relative_to(target) for path in target.rglob("*"))}
    assert {part / MARKER, part / "context/model.json"} <= whole
    assert whole <= set(before["name"])
    # Each rank its own, as others may be on other machines.
    own = {part / "ranks/data-00000.pt", part / "ranks/random-00000.pt"}
    assert own <= set(before["marker"])
    # And the name, before older checkpoints are deleted.
    assert synced[-1] == target.parent


@pytest.mark.parametrize("behind", [False, True])
def test_a_checkpoint_that_cannot_be_written_is_named_and_the_one_before_stays(
    folder: Path, whole: Job, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    full = job(folder, f"full-{behind}", log__ckpt__async_save=behind)
    log, limits = RunLog.step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def then_fill_the_disk(self: Any, row: StepRow) -> None:
        log(self, row)
        if row.step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    monkeypatch.setattr(RunLog, "step", then_fill_the_disk)
    try:
        with pytest.raises(TrainingError, match=r"step-00000006: cannot be written \(.*stay"):
            run_here(full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    assert [path.name for path in checkpoints_of(folder / full["name"])] == ["step-00000003"]
    run_here(full)
    assert rows(full) == rows(whole)


def test_saving_in_the_background_saves_the_same(folder: Path, whole: Job) -> None:
    behind = job(folder, "behind", log__ckpt__async_save=True)
    run_here(behind)
    assert losses(behind) == losses(whole)
    again = copy_until(behind, "behind-again", 3)
    run_here(again)
    assert rows(again) == rows(whole)


def test_what_a_gpu_gave_is_held_until_it_is_written(
    folder: Path, whole: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's pinned memory is the writing process's too, and filled anew once it is given back."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    def as_pinned(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.to("cpu", copy=True)
        copy.share_memory_()  # type: ignore[no-untyped-call]
        weakref.finalize(copy, copy.detach().zero_)
        return copy

    def preload(buckets: list[Any], non_blocking: bool = True) -> list[Any]:
        return [
            (path, key, (data, [(item, as_pinned(tensor)) for item, tensor in tensors]))
            for path, key, (data, tensors) in buckets
        ]

    write = FileSystemWriterAsync.write_preloaded_data

    def write_late(*args: Any, **named: Any) -> None:
        time.sleep(0.3)
        write(*args, **named)

    monkeypatch.setattr(FileSystemWriterAsync, "preload_tensors", staticmethod(preload))
    monkeypatch.setattr(FileSystemWriterAsync, "write_preloaded_data", staticmethod(write_late))
    pinned = job(folder, "pinned", log__ckpt__async_save=True)
    run_here(pinned)
    monkeypatch.undo()
    again = copy_until(pinned, "pinned-again", 3)
    run_here(again)
    assert rows(again) == rows(whole)


def test_a_rank_that_fails_while_another_writes_ends_the_run(folder: Path) -> None:
    """The others wait for its gradients: closing anything, they would wait for each other."""
    broken = job(folder, "broken", log__ckpt__async_save=True, trainer__max_steps=100)
    processes = start_ranks_elsewhere([broken | {"fail_at": 4}], ranks=2)
    other, failing = processes
    try:
        assert failing.wait(timeout=90) == 1
        # Over NCCL the other one waits until torchrun ends it.
        assert torch.cuda.is_available() or other.wait(timeout=90) == 1
    finally:
        for process in processes:
            process.kill()
    assert "source.json:17: is broken" in (folder / "broken-rank-1.txt").read_text()


def test_bfloat16_goes_on_from_its_float32_weights(folder: Path) -> None:
    short = job(folder, "bf16", trainer__compute__precision="bf16")
    run_here(short)
    again = copy_until(short, "bf16-again", 3)
    run_here(again)
    assert rows(again) == rows(short)


def test_a_run_with_adapters_goes_on(folder: Path) -> None:
    given = job(folder, "lora")
    leave_ranks()
    fit(recipe_of(given, lora=True))
    again = copy_until(given, "lora-again", 3)
    fit(recipe_of(again, lora=True))
    assert rows(again) == rows(given)
    kept = json.loads((checkpoints_of(folder / "lora")[-1] / "context/lora.json").read_text())
    assert (kept["dim"], kept["alpha"]) == (32, 64)


def test_layouts_can_change_between_runs(folder: Path, whole: Job) -> None:
    """One pair of processes for all: starting one costs more than its steps."""
    tensor = copy_until(
        whole,
        "tensor",
        3,
        trainer__strategy__tensor_model_parallel_size=2,
        trainer__strategy__sequence_parallel=True,
    )
    pipeline = job(folder, "pipeline", trainer__strategy__pipeline_model_parallel_size=2)
    sharded = job(
        folder,
        "sharded",
        optim__use_distributed_optimizer=True,
        optim__overlap_grad_reduce=True,
        optim__overlap_param_gather=True,
    )
    run_elsewhere([tensor, pipeline, sharded], ranks=2)
    # TP1 → TP2.
    assert losses(tensor) == pytest.approx(losses(whole), rel=1e-5)
    assert [row[3] for row in rows(tensor)] == [row[3] for row in rows(whole)]
    # PP2 → PP1.
    single = copy_until(pipeline, "single", 3, trainer__strategy__pipeline_model_parallel_size=1)
    run_here(single)
    assert losses(single) == pytest.approx(losses(pipeline), rel=1e-5)
    # Two data-parallel ranks: each has its place in the data, and both are in the log.
    assert len(set(rows(sharded)[0][3])) == 8
    again = copy_until(sharded, "sharded-again", 3)
    run_elsewhere([again], ranks=2)
    assert rows(again) == rows(sharded)
    alone = copy_until(sharded, "alone", 3)
    with pytest.raises(ConfigError, match="data-parallel"):
        run_here(alone)


def test_a_stage_of_which_nothing_is_trained_saves_and_goes_on(folder: Path) -> None:
    """As of a pretraining in a pipeline, whose last stage has frozen layers alone."""
    stages = job(
        folder,
        "stages",
        trainer__max_steps=2,
        log__ckpt__every_n_train_steps=1,
        trainer__strategy__pipeline_model_parallel_size=2,
        optim__use_distributed_optimizer=True,
        model__config__freeze_language_model=True,
        model__config__freeze_vision_model=True,
    )
    run_elsewhere([stages], ranks=2)
    again = copy_until(stages, "stages-again", 1)
    run_elsewhere([again], ranks=2)
    assert rows(again) == rows(stages)


def test_another_model_is_refused(folder: Path, whole: Job) -> None:
    other = copy_until(whole, "other", 3)
    changed = {"model.config.language_transformer_config.ffn_hidden_size": 96}
    leave_ranks()
    with pytest.raises(ConfigError, match="ffn_hidden_size=96 and there 168"):
        fit(recipe_of(other).replace(changed))


def test_other_data_settings_are_refused(folder: Path, whole: Job) -> None:
    other = copy_until(whole, "other-data", 3) | {"data": {"global_batch_size": 4}}
    with pytest.raises(ConfigError, match="global_batch_size: saved 8, now 4"):
        run_here(other)


@pytest.fixture(scope="module")
def adapted(folder: Path) -> Job:
    """A run with adapters, saved at its first step."""
    made = job(folder, "with-adapters", trainer__max_steps=1)
    fit_adapters(made)
    return made


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        (
            {"peft.target_modules": ["linear_qkv"]},
            r"peft.target_modules=\['linear_qkv'\] and there",
        ),
        ({"peft.alpha": 640}, "peft.alpha=640 and there 64"),
        ({"peft.dim": 16}, "peft.dim=16 and there 32"),
        ({"peft.freeze_vision_projection": False}, "vision_projection=False and there True"),
        ({"peft": None}, "peft=none and there lora"),
        ({"trainer.compute.precision": "bf16"}, "precision=bf16 and there fp32"),
        ({"optim.use_distributed_optimizer": True}, "optimizer=True and there False"),
    ],
)
def test_a_run_goes_on_with_its_own_adapters_and_precision_alone(
    adapted: Job, changes: dict[str, Any], finding: str
) -> None:
    recipe = recipe_of(adapted, lora=True).replace(changes)
    with pytest.raises(ConfigError, match=f"step-00000001: was trained .*{finding}.*--from"):
        find_start(finished(recipe))


def test_a_run_goes_on_with_what_it_has_frozen_alone(folder: Path, whole: Job) -> None:
    recipe = recipe_of(whole).replace({"model.config.freeze_vision_model": True})
    with pytest.raises(ConfigError, match="freeze_vision_model=True and there False"):
        find_start(finished(recipe))
    lora = recipe_of(whole, lora=True)
    with pytest.raises(ConfigError, match="settings: peft=lora and there none;"):
        find_start(finished(lora))


def test_what_changes_nothing_of_the_state_may_change(adapted: Job) -> None:
    changes = {"peft.dropout": 0.1, "optim.lr": 0.5, "trainer.max_steps": 9}
    found = find_start(finished(recipe_of(adapted, lora=True).replace(changes)))
    marker = found.checkpoint and found.checkpoint / MARKER
    assert marker
    # Those of earlier versions do not say how the optimizer is kept.
    before = json.loads(marker.read_text())
    marker.write_text(json.dumps({name: before[name] for name in before if name != "kept"}))
    try:
        narrow = recipe_of(adapted, lora=True).replace({"trainer.compute.precision": "bf16"})
        assert find_start(finished(narrow)).checkpoint
    finally:
        marker.write_text(json.dumps(before))


@pytest.mark.parametrize("distributed", [False, True])
def test_adams_settings_are_the_recipes_also_after_a_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch, distributed: bool
) -> None:
    groups = []

    def look(training: Any, *args: Any, **named: Any) -> Any:
        groups.append([dict(group) for group in training.optimizer.param_groups])
        return train_step(training, *args, **named)

    monkeypatch.setattr("neva_prep.trainer.loop.train_step", look)
    adam: dict[str, Any] = {"optim__use_distributed_optimizer": distributed}
    run_here(job(folder, f"adam-{distributed}", trainer__max_steps=1, **adam))
    adam |= {"optim__betas": (0.5, 0.6), "optim__eps": 1e-6, "optim__weight_decay": 0.3}
    run_here(job(folder, f"adam-{distributed}", trainer__max_steps=2, **adam))
    assert len(groups) == 2
    assert {(group["betas"], group["eps"]) for group in groups[1]} == {((0.5, 0.6), 1e-6)}
    assert {(group["wd_mult"], group["weight_decay"]) for group in groups[1]} == {(1, 0.3), (0, 0)}


def test_resuming_can_be_turned_off(folder: Path, whole: Job) -> None:
    fresh = copy_until(whole, "fresh", 3, resume__resume_if_exists=False, trainer__max_steps=2)
    report = run_here(fresh)
    assert report.step == 2
    assert [row["step"] for row in read_log(folder / "fresh")] == [1, 2]
    assert losses(fresh) == losses(whole)[:2]


def test_a_run_that_begins_anew_sets_the_earlier_one_aside(
    folder: Path, whole: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    run = folder / "anew"
    anew = copy_until(whole, "anew", 6, resume__resume_if_exists=False, trainer__max_steps=2)
    anew["changes"]["log.ckpt.keep_last"] = 1
    # It begins with the weights and the tokenizer of the run that it sets aside.
    anew["changes"]["resume.restore_config.path"] = str(run)
    words = "context/hf/tokenizer_config.json"
    (run / "checkpoints/step-00000006" / words).write_text('{"of": "it"}')
    report = run_here(anew)
    assert report.checkpoint == run / "checkpoints/step-00000002"
    assert (report.checkpoint / words).read_text() == '{"of": "it"}'
    assert checkpoints_of(run) == [report.checkpoint]
    assert losses(anew)[0] < losses(whole)[0] - 0.05
    assert [path.name for path in checkpoints_of(run / "earlier-1")] == ["step-00000006"]
    assert [row["step"] for row in read_log(run / "earlier-1")] == [1, 2, 3, 4, 5, 6]
    assert f"the run that was there is in {run / 'earlier-1'} now" in capfd.readouterr().err
    # Once more, and what is gone on from is the last one.
    run_here(anew | {"changes": anew["changes"] | {"resume.restore_config.path": None}})
    assert [path.name for path in checkpoints_of(run / "earlier-2")] == ["step-00000002"]
    again = anew | {"changes": anew["changes"] | {"resume.resume_if_exists": True}}
    again["changes"]["trainer.max_steps"] = 3
    assert run_here(again).checkpoint.name == "step-00000003"
    assert losses(anew)[:2] == losses(whole)[:2]


def test_what_was_just_written_is_never_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 7, 9):
        path = checkpoint_path(tmp_path, step)
        path.mkdir(parents=True)
        (path / MARKER).write_text("{}")
    prune(tmp_path, checkpoint_path(tmp_path, 2), keep_last=2)
    assert [path.name[-1] for path in checkpoints_of(tmp_path)] == ["2", "9"]
    prune(tmp_path, checkpoint_path(tmp_path, 2), keep_last=5)
    assert [path.name[-1] for path in checkpoints_of(tmp_path)] == ["2", "9"]
    prune(tmp_path, checkpoint_path(tmp_path, 2), keep_last=1)
    assert [path.name[-1] for path in checkpoints_of(tmp_path)] == ["2"]


def test_weights_alone_start_another_run(folder: Path, whole: Job) -> None:
    path = str(checkpoints_of(folder / "whole")[-1])
    second = job(folder, "second", resume__restore_config__path=path, trainer__max_steps=1)
    run_here(second)
    assert losses(second)[0] < losses(whole)[0] - 0.05
    tensors = torch.load(folder / "second/checkpoints/step-00000001/ranks/random-00000.pt")
    assert set(tensors) >= {"cpu", "megatron"}


def test_adapters_of_peft_are_where_another_run_begins(folder: Path, whole: Job) -> None:
    base: Job = {"resume__restore_config__path": str(checkpoints_of(folder / "whole")[-1])}
    first = job(folder, "adapted", trainer__max_steps=3, optim__lr=0.02, **base)
    fit_adapters(first)
    peft = folder / "peft"
    given: Job = {"resume__restore_config__adapter_path": str(peft)}
    command = ["export", str(folder / "adapted"), "--out", str(peft), "--adapter"]
    assert CliRunner().invoke(root, command).exit_code == 0
    second = job(folder, "from-peft", trainer__max_steps=1, **base, **given)
    fit_adapters(second)
    # A run's adapters are merged where another begins from the run itself.
    merged: Job = {"resume__restore_config__path": str(folder / "adapted")}
    third = job(folder, "from-merged", trainer__max_steps=1, **merged)
    fit_adapters(third)
    assert losses(second) == pytest.approx(losses(third), rel=1e-5)
    assert losses(second)[0] < losses(first)[0] - 0.01
    with pytest.raises(ConfigError, match="no adapters; use --peft lora"):
        run_here(job(folder, "no-adapters", **base, **given))
    with pytest.raises(ConfigError, match="adapters of which model"):
        fit_adapters(job(folder, "no-model", **given))


def fit_adapters(given: Job) -> None:
    leave_ranks()
    torch.set_num_threads(1)
    fit(recipe_of(given, lora=True))
