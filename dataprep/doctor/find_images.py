"""Finding the file that a wrong image path means: another case, extension or folder.

A path is only corrected where a single file can be meant. A file of the same name in a folder that
the path contradicts is no such file: it may be the picture of another dataset.
"""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import xxhash

from ...loaders.image_header import EXTENSIONS, SAME_EXTENSION

_IMAGE_EXTENSIONS = frozenset((*EXTENSIONS.values(), *SAME_EXTENSION))
MAX_HEADS = 1000
"""Different surplus beginnings of paths that are told apart."""


class NotFound(Enum):
    """Why no file is found for a path."""

    NOWHERE = "no file of that name, in any case and with any extension, lies below --images"
    SEVERAL = "several files below --images could be meant; correct the path yourself"
    CONTRADICTED = (
        "files of that name lie below --images, but in other folders than the path says; if they "
        "are the same pictures, correct the path yourself"
    )
    HEADS = (
        "files lie below --images once the beginning of the path is cut off, but different "
        "beginnings would have to be cut off; give an --images that holds all their folders"
    )


class Found(NamedTuple):
    """A file that a path can mean."""

    path: str
    """Relative to the image folder."""
    head: tuple[str, ...] | None
    """Folders at the path's beginning that are surplus; None where the path has no surplus."""


class _Files:
    """Image files below a folder by their names: 24 bytes and the path for each."""

    def __init__(self, root: str) -> None:
        hashes, ends, text = array("Q"), array("Q", [0]), bytearray()
        for path in _image_files(root):
            hashes.append(_hash(_stem(path)))
            text += path.encode()
            ends.append(len(text))
        self._text, self._ends = text, ends
        values = np.asarray(hashes, dtype=np.uint64)
        self._order = np.argsort(values, kind="stable")
        self._hashes = values[self._order]

    def named(self, name: str) -> list[str]:
        """Paths of the files that have a name, whatever their case and extension."""
        stem = _stem(name)
        value = np.uint64(_hash(stem))
        start = int(np.searchsorted(self._hashes, value, "left"))
        stop = int(np.searchsorted(self._hashes, value, "right"))
        places = self._order[start:stop].tolist()
        paths = [self._text[self._ends[at] : self._ends[at + 1]].decode() for at in places]
        return [path for path in paths if _stem(path) == stem]


class ImageFinder:
    """Looks for files of a folder by name; it lists the folder once, and follows no links."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.heads: Counter[tuple[str, ...]] = Counter()
        """Those that are surplus only if all paths with one have the same."""

    @cached_property
    def _files(self) -> _Files:
        return _Files(self.root)

    def note(self, path: str) -> None:
        """Learn from a path that leads nowhere which beginnings are surplus; before `find`."""
        found = self._best(path)
        if not isinstance(found, Found) or not found.head or self._names_root(found.head):
            return
        if len(self.heads) < MAX_HEADS:
            self.heads[found.head] += 1

    def find(self, path: str) -> Found | NotFound:
        """The one file that a path means."""
        found = self._best(path)
        if isinstance(found, Found) and found.head and not self._is_sure(found.head):
            return NotFound.HEADS
        return found

    def _is_sure(self, head: tuple[str, ...]) -> bool:
        # `coco/1.jpg` and `vg/1.jpg` must not become one picture: either it is the very folder that
        # --images names, or all paths with another beginning lose the same.
        return self._names_root(head) or len(self.heads) <= 1

    def _names_root(self, head: tuple[str, ...]) -> bool:
        return head[-1] == _fold(os.path.basename(self.root))

    def _best(self, path: str) -> Found | NotFound:
        parts = _parts(path)
        if not parts:
            return NotFound.NOWHERE
        named = self._files.named(parts[-1])
        if not named:
            return NotFound.NOWHERE
        ranked = sorted(
            ((rank, name) for name in named if (rank := _agreement(parts, name.split("/")))),
            reverse=True,
        )
        if not ranked:
            return NotFound.CONTRADICTED
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            return NotFound.SEVERAL
        name = ranked[0][1]
        head = tuple(map(_fold, parts[: len(parts) - len(name.split("/"))]))
        return Found(name, head or None)


def spelled_plainly(path: str) -> str:
    r"""A path with its usual accidents undone: backslashes, `file://`, `%20`, `./`, spaces.

    Example:
        >>> spelled_plainly(r" images\\my%20cat.jpg ")
        'images/my cat.jpg'
    """
    return "/".join(_parts(path))


def _parts(path: str) -> list[str]:
    path = path.strip().removeprefix("file://").replace("\\", "/")
    if "%" in path:
        path = unquote(path)
    if "\0" in path or "://" in path or path.startswith("data:"):
        return []
    return [part for part in path.split("/") if part not in ("", ".", "..")]


def _agreement(wanted: list[str], found: list[str]) -> tuple[int, bool, bool, bool] | None:
    """How well a file fits a path; None where their folders contradict each other."""
    shared = min(len(wanted), len(found)) - 1
    ends = [wanted[len(wanted) - 1 - shared : -1], found[len(found) - 1 - shared : -1]]
    if [_fold(part) for part in ends[0]] != [_fold(part) for part in ends[1]]:
        return None
    return (
        shared,
        _kind(wanted[-1]) == _kind(found[-1]),
        wanted[-1] == found[-1],
        ends[0] == ends[1],
    )


def _image_files(root: str) -> Iterator[str]:
    """Paths of the image files below a folder, relative to it, in order."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        head = os.path.relpath(folder, root)
        for name in sorted(names):
            if name.rpartition(".")[2].lower() in _IMAGE_EXTENSIONS:
                path = name if head == "." else f"{head}/{name}"
                # What is no UTF-8 cannot stand in a JSON text.
                if path.isascii() or _is_text(path):
                    yield path


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    return _fold(stem if dot and extension.lower() in _IMAGE_EXTENSIONS else name)


def _kind(name: str) -> str:
    extension = name.rpartition(".")[2].lower()
    return SAME_EXTENSION.get(extension, extension)


def _fold(text: str) -> str:
    """Text without regard to case, and to how accents are composed (macOS takes them apart)."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
