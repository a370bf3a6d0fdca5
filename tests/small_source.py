"""A small LLaVA source with good and bad records; converting it, and looking at the result."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from handmade import picture

NEVA_PREP = str(Path(sys.executable).with_name("neva-prep"))


@cache
def _jpeg(width: int) -> bytes:
    return picture(width, 24, "JPEG")


@cache
def _png(width: int) -> bytes:
    return picture(width, 16, "PNG")


def write_source(
    root: Path, records: int, *, bad: Collection[int] = (), padding: int = 0
) -> tuple[Path, Path]:
    """A source of `records` records and the folder of its images.

    One in seven has no image; one in seven has two, of which a PNG is misnamed `.jpg`.

    Args:
        root: made where it does not exist.
        records: how many.
        bad: indices of records whose (last) image is missing: use none of the text-only ones.
        padding: bytes added behind the end mark of each JPEG, to make images larger.
    """
    images = root / "pictures"
    (images / "deep").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(records):
        names = [f"{number}.jpg", f"deep/{number}-b.jpg"][: {3: 0, 5: 2}.get(number % 7, 1)]
        for place, name in enumerate(names):
            if number in bad and name == names[-1]:
                continue
            content = _png(20 + number % 9) if place else _jpeg(20 + number % 9)
            (images / name).write_bytes(content + b"" if place else content + bytes(padding))
        image: dict[str, Any] = {"image": names[0] if len(names) == 1 else names} if names else {}
        rows.append(
            {
                "id": f"id-{number}",
                **image,
                "conversations": [
                    {
                        "from": "human",
                        "value": "<image>\n" * len(names) + f"What is {number}? é一😀",
                    },
                    {"from": "gpt", "value": f"It is {number}."},
                ],
                "score": number / 8,
                "meta": {"nested": [number, None]},
            }
        )
    source = root / "llava.json"
    source.write_text(json.dumps(rows, ensure_ascii=False))
    return source, images


def fix_images(images: Path, bad: Collection[int]) -> None:
    """Put the missing images of a source into its folder."""
    for number in bad:
        name = f"deep/{number}-b.jpg" if number % 7 == 5 else f"{number}.jpg"
        (images / name).write_bytes(_png(50 + number) if number % 7 == 5 else _jpeg(50 + number))


def run(
    *arguments: str | os.PathLike[str], cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `neva-prep` to its end."""
    return subprocess.run(
        [NEVA_PREP, *(os.fspath(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def tree(folder: Path) -> dict[str, str]:
    """Path -> sha256 of every file in a folder, hidden ones too."""
    return {
        os.fspath(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
