"""Checkpoints of a run: all that it needs to go on as if it had not stopped.

step-00001000/
  weights/                torch_dist: loads into any layout over ranks
  optimizer/              the same, Adam's moments and float32 weights
  context/                the model's config, tokenizer and processor; lora.json with adapters
  ranks/data-00000.pt     the loader's place, of each data-parallel rank
  ranks/random-00000.pt   random states, of each rank
  training.json           written last, before the folder gets its name
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import torch

from ..errors import ConfigError
from .build import Training, whole_weights
from .config_file import write_config
from .durable import rename_durably, sync_file
from .leftovers import clear_leftovers, mark_whole, mark_written, unfinished
from .logs import BOARD_FOLDER, LOG_FILE
from .optimizer_state import load_optimizer, sharded_optimizer, sharded_weights
from .save_async import Writer, told
from .saved import lora_path
from .share import reads_data
from .weights import config_path, hf_files, load_weights, weights_folder

MARKER = "training.json"
_FOLDER = "checkpoints"
_VERSION = 1
_NAME = re.compile(r"step-(\d{8})")


def checkpoints_of(run: Path) -> list[Path]:
    """Whole checkpoints of a run, the oldest first."""
    found = [path for path in (run / _FOLDER).glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(path for path in found if (path / MARKER).is_file())


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run's checkpoint of a step is."""
    return run / _FOLDER / f"step-{step:08d}"


def clear_unfinished(run: Path) -> list[str]:
    """Delete checkpoints that killed processes were writing or deleting; lines for people."""
    return clear_leftovers(run / _FOLDER)


def set_aside(run: Path) -> Path | None:
    """Move a run that is not gone on with out of the way of one that begins in its folder.

    Returns:
        The folder in the run's, where it is a run as before; None where nothing had been saved.
    """
    if not checkpoints_of(run):
        return None
    numbers = (number for number in count(1) if not (run / f"earlier-{number}").exists())
    aside = run / f"earlier-{next(numbers)}"
    aside.mkdir()
    # The checkpoints go last: until then all of it is moved again, next time.
    for name in (LOG_FILE, BOARD_FOLDER, _FOLDER):
        if (run / name).exists():
            (run / name).rename(aside / name)
    return aside


def save_checkpoint(
    training: Training,
    data: Any,
    run: Path,
    step: int,
    writer: Writer,
    *,
    keep_last: int,
    files: Path | None,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Save after a step; all ranks call it.

    Args:
        training: the model and its optimizer.
        data: the data module.
        run: folder of the run.
        step: that was made last.
        writer: writes now, or while training goes on.
        keep_last: checkpoints that are kept, this one included; 0 keeps all.
        files: folder with the tokenizer's and processor's files.
        facts: put into training.json.
        say: given lines for people, on rank 0.

    Raises:
        TrainingError: it cannot be written, or the one before cannot that was under way.
    """
    writer.finish()
    target = checkpoint_path(run, step)
    part = unfinished(target)
    if _first():
        with told(target):
            writer.mark = _make_folders(part)
    torch.distributed.barrier()
    with told(target):
        _save_ranks(data, part / "ranks")
        if _first():
            _write_context(training, part, files, data)
    with whole_weights(training):
        weights = sharded_weights(training)
        optimizer = sharded_optimizer(training, weights, loading=False)
        world = torch.distributed.get_world_size()
        marker = {"format_version": _VERSION, "step": step, "world_size": world} | facts

        def commit() -> None:
            torch.distributed.barrier()
            if _first():
                (part / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
                assert writer.mark is not None
                mark_whole(part, writer.mark)
                shutil.rmtree(target, ignore_errors=True)
                rename_durably(part, target)
                for line in prune(run, target, keep_last):
                    say(line)
            # The other ranks may look for it from here on.
            torch.distributed.barrier()

        writer.write(
            target, [(weights, weights_folder(part)), (optimizer, part / "optimizer")], commit
        )


def _make_folders(part: Path) -> TextIO:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    mark = mark_written(part)
    for folder in (weights_folder(part), part / "optimizer", part / "ranks", hf_files(part)):
        folder.mkdir(parents=True)
    return mark


def load_checkpoint(training: Training, data: Any, checkpoint: Path) -> dict[str, Any]:
    """Go on from a checkpoint; all ranks call it, in any layout with as many data-parallel ranks.

    Returns:
        What training.json says.

    Raises:
        ConfigError: it is of another model, or the data module has other settings.
    """
    marker = read_marker(checkpoint)
    with warnings.catch_warnings():
        # megatron-core's reader calls torch by its former names.
        warnings.filterwarnings("ignore", category=FutureWarning)
        load_weights(training.chunks, weights_folder(checkpoint))
        load_optimizer(training, checkpoint / "optimizer")
    _load_ranks(data, checkpoint / "ranks", same_layout=_same_layout(training, marker))
    return marker


def read_marker(checkpoint: Path) -> dict[str, Any]:
    """What training.json says.

    Raises:
        ConfigError: it is none that this version reads.
    """
    try:
        marker: dict[str, Any] = json.loads((checkpoint / MARKER).read_text())
        if marker["format_version"] != _VERSION:
            raise ConfigError(
                f"{checkpoint}: of format {marker['format_version']}, and this version of "
                f"neva-prep reads {_VERSION}; use the version that wrote it"
            )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{checkpoint}: is no checkpoint of a run ({error})") from error
    return marker


def layout_of(training: Training) -> dict[str, Any]:
    """The layout over ranks, for training.json."""
    return asdict(training.parallel)


def _save_ranks(data: Any, folder: Path) -> None:
    from megatron.core import parallel_state

    rank = torch.distributed.get_rank()
    if reads_data():
        number = parallel_state.get_data_parallel_rank()
        _save(data.state_dict(), folder / f"data-{number:05d}.pt")
    _save(_random_states(), folder / f"random-{rank:05d}.pt")


def _save(states: dict[str, Any], path: Path) -> None:
    torch.save(states, path)
    # By this rank: the one that gives the checkpoint its name may be on another machine.
    sync_file(path)


def _load_ranks(data: Any, folder: Path, *, same_layout: bool) -> None:
    from megatron.core import parallel_state

    if reads_data():
        saved = len(list(folder.glob("data-*.pt")))
        if saved != parallel_state.get_data_parallel_world_size():
            raise ConfigError(
                f"{folder.parent}: was saved by {saved} data-parallel ranks and now there are "
                f"{parallel_state.get_data_parallel_world_size()}; the samples cannot go on in "
                "their order: use as many, or start another run from these weights "
                "(resume.restore_config.path)"
            )
        path = folder / f"data-{parallel_state.get_data_parallel_rank():05d}.pt"
        data.load_state_dict(torch.load(path, weights_only=True))
    if same_layout:
        rank = torch.distributed.get_rank()
        _set_random_states(torch.load(folder / f"random-{rank:05d}.pt", weights_only=True))


def _random_states() -> dict[str, Any]:
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    states["megatron"] = dict(get_cuda_rng_tracker().get_states())
    return states


def _set_random_states(states: dict[str, Any]) -> None:
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    get_cuda_rng_tracker().set_states(states["megatron"])


def _same_layout(training: Training, marker: dict[str, Any]) -> bool:
    """Random states belong to ranks; elsewhere they are drawn anew from the seed."""
    same_size = marker["world_size"] == torch.distributed.get_world_size()
    return same_size and marker.get("layout") == layout_of(training)


def _write_context(training: Training, part: Path, files: Path | None, data: Any) -> None:
    from .hf_write import copy_small_files

    write_config(training.neva, config_path(part))
    if training.peft is not None:
        lora = asdict(training.peft) | {"target_modules": list(training.peft.target_modules)}
        lora_path(part).write_text(json.dumps(lora, indent=2) + "\n")
    if files is not None:
        copy_small_files(files, hf_files(part))
        unused = files / "unused.safetensors"
        if unused.is_file():
            shutil.copyfile(unused, hf_files(part) / unused.name)
        return
    tokenizer = data.settings.encoder.rules.tokenizer
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(hf_files(part))


def prune(run: Path, written: Path, keep_last: int) -> list[str]:
    """Delete the oldest checkpoints, but never the one just written, whatever steps others have.

    Returns:
        For people, which could not be deleted: the run is worth more than the room they take.
    """
    others = [path for path in checkpoints_of(run) if path != written]
    too_many = others[: max(len(others) - keep_last + 1, 0)] if keep_last else []
    told = []
    for old in too_many:
        # What is half deleted is no checkpoint, and a next run deletes the rest.
        gone = unfinished(old)
        try:
            shutil.rmtree(gone, ignore_errors=True)
            shutil.rmtree(old.rename(gone))
        except OSError as error:
            told.append(f"{old}: cannot be deleted ({error}); training goes on: delete it by hand")
    return told


def _first() -> bool:
    return torch.distributed.get_rank() == 0
