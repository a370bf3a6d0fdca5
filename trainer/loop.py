"""The run: from a recipe to a trained model, step by step.

find_start ──▶ build_training ──▶ load_checkpoint ──▶ each step: rate, train, log, validate, save
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..errors import TrainingError
from .build import Training, build_training
from .check import effective
from .checkpoint import (
    checkpoint_path,
    checkpoints_of,
    clear_unfinished,
    layout_of,
    load_checkpoint,
    save_checkpoint,
    set_aside,
)
from .editable import Editable, describe, finished
from .hf_config import resolve
from .launch import check_launch
from .logs import RunLog
from .match import check_data, image_statistics, row_length
from .optimizer import set_learning_rate
from .profile import Profile, open_profile, profiled
from .profile_setup import setup_of
from .ranks import ranks_joined
from .recipe import Recipe
from .same_run import kept_settings
from .save_async import Writer
from .schedule import check_rate, learning_rate
from .share import reads_data
from .start import Start, find_start, run_folder
from .step import NotFiniteError, evaluate_step, train_step
from .step_row import all_samples, step_row
from .stop import StopSignal
from .watch import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """How a run ended."""

    step: int
    """The last one."""
    loss: float | None
    """Of that step; None if none was made."""
    checkpoint: Path
    stopped: bool
    """It was told to stop before its last step; the same recipe goes on."""


def fit(recipe: Recipe | Editable) -> FitReport:
    """Train, from where the run stands to its last step; every rank of it calls this.

    Raises:
        NevaPrepError: settings, data or weights that cannot be trained on.
    """
    plan: Recipe = finished(recipe)
    check_launch(plan)
    check_rate(plan.lr_scheduler, plan.optim.lr)
    start = find_start(plan)
    parallel = effective(plan.trainer.strategy)
    check_data(plan.data, resolve(start.neva), parallel)
    with ranks_joined(parallel, seed=plan.seed), closing(plan.data), StopSignal() as stop:
        return _fit(plan, start, stop)


finetune = fit
"""NeMo's name: whether weights are there to begin from, the recipe says."""
pretrain = fit
"""NeMo's name."""


def _fit(recipe: Recipe, start: Start, stop: StopSignal) -> FitReport:
    training = build_training(
        start.neva,
        parallel=recipe.trainer.strategy,
        compute=recipe.trainer.compute,
        optimizer=recipe.optim,
        peft=recipe.peft,
        load=start.load,
        adapter=start.adapter,
        seed=recipe.seed,
        **image_statistics(recipe.data),
    )
    step = 0
    if start.checkpoint is not None:
        step = int(load_checkpoint(training, recipe.data, start.checkpoint)["step"])
    run = run_folder(recipe)
    first = torch.distributed.get_rank() == 0
    cleared = clear_unfinished(run) if first else []
    # Only now: the weights may be those of a checkpoint that is set aside.
    earlier = None if start.checkpoint is not None else _set_aside(run)
    log = RunLog(
        run,
        writes=first,
        from_step=step,
        max_steps=recipe.trainer.max_steps,
        every=recipe.trainer.log_every_n_steps,
    )
    for line in cleared:
        log.say(line)
    if earlier is not None:
        start = replace(start, files=start.files and _moved(start.files, run, earlier))
        log.say(f"{run}: the run that was there is in {earlier} now, checkpoints and log")
    log.say(_opening(recipe, training, start))
    # Python's collector would look through all that libraries hold, 0.2 s at a time.
    gc.collect()
    gc.freeze()
    writer = Writer(in_background=recipe.log.ckpt.async_save)
    profile = _profile(recipe, training, run, step)
    try:
        report = _steps(_Run(recipe, training, start, run, log, writer, profile), step, stop)
        writer.close()
        return report
    except BaseException:
        writer.abandon()
        raise
    finally:
        log.close()


def _set_aside(run: Path) -> Path | None:
    """Move an earlier run's files, on rank 0; all ranks get the folder."""
    first = torch.distributed.get_rank() == 0
    moved = [set_aside(run) if first else None]
    torch.distributed.broadcast_object_list(moved)
    return moved[0]


def _moved(path: Path, run: Path, aside: Path) -> Path:
    """Where a file of the run lies since it was set aside; another file's path as it is."""
    inside = path.resolve()
    folder = run.resolve()
    return aside / inside.relative_to(folder) if inside.is_relative_to(folder) else path


@dataclass(frozen=True, slots=True)
class _Run:
    """What all steps of a run share."""

    recipe: Recipe
    training: Training
    start: Start
    folder: Path
    log: RunLog
    writer: Writer
    profile: Profile | None

    def numbers(self) -> dict[str, int]:
        """Sizes of a step."""
        data = self.recipe.data
        return {
            "num_micro_batches": data.num_micro_batches,
            "seq_length": row_length(data),
            "micro_batch_size": data.settings.read.micro_batch_size,
        }


def _steps(run: _Run, step: int, stop: StopSignal) -> FitReport:
    recipe, trainer = run.recipe, run.recipe.trainer
    saved, loss, stopped = step, None, False
    watch = Watch(iter(recipe.data.train_dataloader())) if reads_data() else None
    while step < trainer.max_steps and not stopped:
        step += 1
        with _last_saved(run):
            loss = _step(run, step, watch)
        run.writer.poll()
        if trainer.val_check_interval and step % trainer.val_check_interval == 0:
            _validate(run, step, stop)
        stopped = stop.on_any_rank()
        if step % recipe.log.ckpt.every_n_train_steps == 0 or stopped:
            saved = _save(run, step)
    if saved != step:
        _save(run, step)
    run.writer.finish()
    stopped = step < trainer.max_steps
    path = checkpoint_path(run.folder, step)
    run.log.say(f"{'stopped' if stopped else 'finished'} at step {step:,}; saved as {path}")
    return FitReport(step=step, loss=loss, checkpoint=path, stopped=stopped)


def _step(run: _Run, step: int, watch: Watch | None) -> float:
    recipe, started = run.recipe, time.perf_counter()
    lr = learning_rate(
        step, recipe.lr_scheduler, lr=recipe.optim.lr, max_steps=recipe.trainer.max_steps
    )
    set_learning_rate(run.training.optimizer, lr)
    with profiled(run.profile, step):
        result = train_step(run.training, watch, **run.numbers())
    seconds = time.perf_counter() - started
    seen = watch.take() if watch is not None else None
    samples = all_samples(seen)
    row = None
    if seen is not None:
        row = step_row(
            run.training,
            recipe.data.settings.encoder,
            step,
            lr,
            result,
            seen,
            samples,
            seconds,
        )
        run.log.step(row)
    if run.profile is not None:
        for line in run.profile.after(step, row):
            run.log.say(line)
    return result.loss


def _profile(recipe: Recipe, training: Training, run: Path, step: int) -> Profile | None:
    if not recipe.trainer.profile:
        return None
    setup = setup_of(recipe.data, training)
    return open_profile(training, setup, run, done=step, last=recipe.trainer.max_steps)


def _validate(run: _Run, step: int, stop: StopSignal) -> None:
    """Log the loss on the validation split; a stop is not kept waiting for its end."""
    limit, data = run.recipe.trainer.limit_val_batches, run.recipe.data
    batches: Iterator[Any] | None = None
    if reads_data():
        batches = iter(data.val_dataloader())
        if limit is not None:
            batches = islice(batches, limit * data.num_micro_batches)
    loss = tokens = 0.0
    try:
        while (result := evaluate_step(run.training, batches, **run.numbers())) is not None:
            loss, tokens = loss + result.loss_sum, tokens + result.num_trained_tokens
            run.writer.poll()
            if stop.on_any_rank():
                run.log.say(f"step {step:,}  told to stop: its validation is left out")
                return
    except NotFiniteError as error:
        # The steps were good, and are kept.
        _save(run, step)
        with _last_saved(run):
            raise NotFiniteError(f"validation behind step {step:,}: {error}") from error
    run.log.validation(step, loss / tokens if tokens else float("nan"), int(tokens))


@contextmanager
def _last_saved(run: _Run) -> Iterator[None]:
    """Finish what is being written where all ranks fail alike, and say what there is."""
    try:
        yield
    except NotFiniteError as error:
        run.writer.finish()
        saved = checkpoints_of(run.folder)
        kept = f"the last checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet"
        raise TrainingError(f"{error}; {kept}") from error


def _save(run: _Run, step: int) -> int:
    save_checkpoint(
        run.training,
        run.recipe.data,
        run.folder,
        step,
        run.writer,
        keep_last=run.recipe.log.ckpt.keep_last,
        files=run.start.files,
        facts={
            "layout": layout_of(run.training),
            "kept": kept_settings(run.recipe),
            "recipe": describe(run.recipe),
        },
        say=run.log.say,
    )
    return step


def _opening(recipe: Recipe, training: Training, start: Start) -> str:
    trained = sum(
        w.numel() for chunk in training.chunks for w in chunk.parameters() if w.requires_grad
    )
    ranks = torch.distributed.get_world_size()
    return (
        f"{recipe.log.name}: {ranks} {'ranks' if ranks > 1 else 'rank'}, {trained:,} trained "
        f"weights on this one, from {start.what}"
    )
