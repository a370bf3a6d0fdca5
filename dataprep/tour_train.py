"""The demo's second half: a small model learns simple pictures, and is asked about others."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import NevaPrepError
from .convert import convert
from .lesson import TOPICS, Exam, ask, draw_lesson, save_untrained, score
from .look.terminal import draw_side_by_side
from .options import ConvertOptions

_PICTURES, _HELD_OUT, _SHOWN = 2000, 60, 8
_PACK = 2432
"""Positions of a pack: about 32 conversations."""


def missing_for_training() -> str | None:
    """What is not installed of the extra `train`."""
    return next((n for n in ("megatron.core", "safetensors") if not _is_installed(n)), None)


def run_training(folder: Path, console: Console, *, steps: int, seed: int) -> float:
    """Draw, convert, import, train, export, ask; print what a user would see.

    Args:
        folder: replaced.
        console: where to print.
        steps: of training.
        seed: decides pictures and weights.

    Returns:
        The share of held-out questions that the model answers right.

    Raises:
        NevaPrepError: a command failed.
    """
    from .tour import headline

    _quiet_transformers()
    shutil.rmtree(folder, ignore_errors=True)
    shards, start, hf = folder / "shards", folder / "start", folder / "hf"
    headline(console, f"Draw {_PICTURES:,} simple pictures to learn from", f"{folder}/lesson.json")
    lesson = draw_lesson(folder, pictures=_PICTURES, held_out=_HELD_OUT, seed=seed)
    options = ConvertOptions(split={"train": 0.97, "val": 0.03}, shard_size_bytes=4_000_000)
    report = convert(lesson.source, lesson.images, shards, options)
    console.print(f"{report.samples:,} conversations, {report.shards} shards", highlight=False)
    untrained = save_untrained(folder / "untrained", seed)
    headline(console, "Import a model that knows nothing", _shown("import", untrained, start))
    _run("import", str(untrained), "--out", str(start))
    settings = [
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={max(1, steps // 2)}",
        f"lr_scheduler.warmup_steps={min(100, max(1, steps // 8))}",
    ]
    train = [
        *("--recipe", "tiny", "--from", str(start), "--data", str(shards)),
        *("--template", "tokenizer", "--pack", "--seq-length", str(_PACK)),
        *("--global-batch-size", "1", "--workers", "1", "--out", str(folder), "--name", "run"),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    headline(console, f"Train it for {steps:,} steps", f"neva-prep train {' '.join(train)}")
    _run("train", *train)
    headline(console, "Export it to Hugging Face", _shown("export", folder / "run", hf))
    _run("export", str(folder / "run"), "--out", str(hf))
    headline(console, "Ask it about pictures it has never seen", f"{folder}/exam")
    return _ask(hf, lesson.exam, console)


def _ask(hf: Path, exam: Sequence[Exam], console: Console) -> float:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(hf).eval()
    answers = ask(model, AutoProcessor.from_pretrained(hf), exam)
    pairs = list(zip(exam, answers, strict=True))
    _show_some(pairs, console)
    table = Table("questions of", "asked", "right", box=None)
    for topic in TOPICS:
        of_topic = [(one, answer) for one, answer in pairs if one.question.topic == topic]
        if of_topic:
            right = score(*zip(*of_topic, strict=True))
            table.add_row(topic, f"{len(of_topic)}", f"{right:.0%}")
    found = score(exam, answers)
    table.add_row("all", f"{len(exam)}", f"{found:.0%}")
    console.print(table)
    return found


def _show_some(pairs: Sequence[tuple[Exam, str]], console: Console) -> None:
    """A question of each topic in turn: its picture, the answer, the true one where it differs."""
    from PIL import Image

    by_topic = [[pair for pair in pairs if pair[0].question.topic == topic] for topic in TOPICS]
    # Not the first question of a picture twice: each topic begins somewhere else.
    turns = zip(*(found[place * 5 :] for place, found in enumerate(by_topic)), strict=False)
    for one, answer in list(chain.from_iterable(turns))[:_SHOWN]:
        draw_side_by_side([Image.open(one.picture).convert("RGB").resize((84, 84))], console)
        right = answer == one.question.answer
        truth = "" if right else f"  (it is {one.question.answer})"
        console.print(
            Text.assemble(
                (f"{one.picture.name}  ", "dim"),
                (one.question.text, "cyan"),
                "  ",
                (answer, "bold green" if right else "bold red"),
                truth,
            ),
            soft_wrap=True,
        )


def _shown(command: str, source: Path, target: Path) -> str:
    return f"neva-prep {command} {source} --out {target}"


def _run(*arguments: str) -> None:
    """A command of ours in a process of its own: megatron-core is not imported here."""
    command = [sys.executable, "-m", f"{__package__.partition('.')[0]}.cli", *arguments]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise NevaPrepError(f"neva-prep {arguments[0]} ended with {ended.returncode}; see above")


def _quiet_transformers() -> None:
    """No bars and no hints among the demo's own lines."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
