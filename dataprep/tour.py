"""The demo: each stop of the main job, one after the other, on pictures that it draws."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from ..errors import NevaPrepError
from .convert import convert
from .demo import DemoSource, check_demo_folder, draw_demo
from .look.open import open_looked
from .look.terminal import show_sample
from .options import ConvertOptions
from .report import ConvertReport
from .show_report import show_report, show_verified
from .verify import verify


def run_demo(
    folder: Path, console: Console, *, pictures: int, seed: int, overwrite: bool, steps: int
) -> None:
    """Draw, convert, verify, look, stream, train; print what a user would see.

    Args:
        folder: gets everything; new, empty, or of an earlier demo.
        console: where to print.
        pictures: to draw.
        seed: decides them.
        overwrite: replace an earlier demo.
        steps: of training; 0 for none.

    Raises:
        ConfigError: the folder holds other things.
        NevaPrepError: a stop did not give what it should; the demo is a test, too.
    """
    check_demo_folder(folder, overwrite=overwrite)
    shards = folder / "shards"
    headline(console, f"Draw {pictures} pictures with questions", f"{folder}/shapes.json")
    source = draw_demo(folder, pictures=pictures, seed=seed)
    headline(
        console,
        "Convert them",
        f"neva-prep convert {source.source} --images {source.images} --out {shards} "
        "--split train=0.9,val=0.1 --shard-size 1MB",
    )
    options = ConvertOptions(
        split={"train": 0.9, "val": 0.1}, shard_size_bytes=1_000_000, overwrite=overwrite
    )
    report = convert(source.source, source.images, shards, options)
    show_report(report, console)
    _expect(report.rejections == source.broken, f"rejected {report.rejections}", source)
    headline(console, "Verify every byte", f"neva-prep verify {shards}")
    checked = verify(shards)
    show_verified(checked, console)
    _expect(checked.is_whole, "the dataset is not whole", source)
    headline(console, "Look at two samples", f"neva-prep inspect {shards} --index 0")
    looked = open_looked(shards)
    for index in (0, report.samples - 1):
        show_sample(looked.sample(index), console)
        console.print()
    headline(console, "Stream an epoch through megatron-energon", "open_dataset(...)")
    _stream(shards, report, console, source)
    _train(folder / "lesson", console, steps=steps, seed=seed)


def _train(folder: Path, console: Console, *, steps: int, seed: int) -> None:
    from .tour_train import missing_for_training, run_training

    missing = missing_for_training()
    if steps and missing:
        headline(console, "Train a small model", "pip install 'neva-prep[train]'")
        console.print(Text(f"skipped: {missing} is not installed"))
    elif steps:
        run_training(folder, console, steps=steps, seed=seed)


def _stream(shards: Path, report: ConvertReport, console: Console, source: DemoSource) -> None:
    # Importing energon takes seconds: only now.
    from ..loaders import open_dataset

    for split, expected in report.splits.items():
        start = time.perf_counter()
        samples = pixels = 0
        for sample in open_dataset(shards, split=split):
            samples += 1
            pixels += sum(image.width * image.height for image in sample.decode_images())
        seconds = time.perf_counter() - start
        console.print(
            Text(
                f"{split}: {samples} samples, {pixels / 1e6:.1f} megapixels decoded, "
                f"{samples / seconds:,.0f} samples a second"
            )
        )
        _expect(samples == expected, f"{split} gave {samples} of {expected} samples", source)


def headline(console: Console, what: str, how: str) -> None:
    """What comes next, and the command or call that does it."""
    console.print()
    console.print(Rule(Text(what, "bold"), align="left"))
    console.print(Text(f"$ {how}" if how.startswith("neva-prep") else how, "dim"))


def _expect(holds: bool, finding: str, source: DemoSource) -> None:
    if not holds:
        raise NevaPrepError(
            f"demo of {source.source}: {finding}; please report this with the folder"
        )
