"""Guessing which folder was meant by --images, by looking for the files nearby."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

MAX_FOLDERS = 2000
"""Folders below --images and beside the source that are tried."""
MAX_PATHS = 1000
"""Missing paths that are looked for; the first of the source."""
_FIRST = 20
_MAX_GUESSES = 3


class Guess(msgspec.Struct, frozen=True, kw_only=True):
    """A folder in which missing images are found under the paths that the records give."""

    images: str
    """The folder to give as --images."""
    found: int
    tried: int


def guess_roots(paths: Sequence[str], images: str, source: Path) -> list[Guess]:
    """Folders that hold missing images, the best first.

    Args:
        paths: missing images, as the records give them.
        images: the folder that does not have them.
        source: the source file.
    """
    plain = [path for path in paths[:MAX_PATHS] if _is_plain(path)]
    # Spread over all, since a source often begins with one folder's images.
    first = plain[:: max(1, len(plain) // _FIRST)][:_FIRST]
    guesses = []
    for folder in islice(_nearby(images, source), MAX_FOLDERS):
        if any(os.path.isfile(f"{folder}/{path}") for path in first):
            found = sum(os.path.isfile(f"{folder}/{path}") for path in plain)
            guesses.append(Guess(images=folder, found=found, tried=len(plain)))
    guesses.sort(key=lambda guess: (-guess.found, len(guess.images)))
    return guesses[:_MAX_GUESSES]


def _nearby(images: str, source: Path) -> Iterable[str]:
    """Three folders up from both, then every folder below --images and beside the source."""
    here, beside = Path(images).resolve(), source.resolve().parent
    seen = {os.fspath(here)}
    ups = [*here.parents[:3], beside, *beside.parents[:2]]
    for folder in (*map(os.fspath, ups), *_below(here), *_below(beside)):
        if folder not in seen and folder != "/":
            seen.add(folder)
            yield folder


def _below(root: Path) -> Iterable[str]:
    """Folders below one, the nearest first; hidden ones left out."""
    level = [os.fspath(root)]
    while level:
        deeper: list[str] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    inside = sorted(
                        entry.path
                        for entry in entries
                        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
                    )
            except OSError:
                continue  # A folder that cannot be read holds no image for us.
            deeper += inside
            yield from inside
        level = deeper


def _is_plain(path: str) -> bool:
    """Whether a path may be tried in any folder: a stranger's `../../` must not look elsewhere."""
    return not path.startswith("/") and "\0" not in path and ".." not in path.split("/")
