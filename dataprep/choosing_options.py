"""Options of `neva-prep convert` that choose records and shrink images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def choosing_options(command: Command) -> Command:
    """Add them to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--filter",
        multiple=True,
        metavar="EXPRESSION",
        help="Only records that pass, e.g. 'width >= 224 and turns <= 10'; see docs/choosing.md.",
    ),
    click.option(
        "--dedup",
        metavar="exact|perceptual[:R]",
        help="Leave out what repeats an earlier record; images are the same by their files, or by "
        "their looks: 64 bits, of which R may differ (4).",
    ),
    click.option(
        "--dedup-by",
        type=click.Choice(["record", "images"]),
        default="record",
        show_default=True,
        help="What a repetition shares: texts and images, or images alone.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="EVALUATION[=IMAGES]",
        help="Leave out what occurs in this evaluation set, a dataset or a source and its images. "
        "Images are compared as --dedup says; by their files without it.",
    ),
    click.option(
        "--exclude-by",
        type=click.Choice(["both", "images", "questions"]),
        default="both",
        show_default=True,
        help="What of an evaluation set must not occur.",
    ),
    click.option(
        "--resize", type=int, metavar="N", help="Shrink images to N pixels on their shorter edge."
    ),
    click.option(
        "--max-pixels", type=int, metavar="N", help="Shrink images to N pixels (width x height)."
    ),
    click.option(
        "--reencode",
        metavar="webp:Q|jpeg:Q",
        help="Encode each image anew, with quality Q, if it gets smaller by it.",
    ),
)
