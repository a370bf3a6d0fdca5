"""The files of a table: one file, a folder of Parquet, or what `save_to_disk` wrote."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NoReturn

from ...errors import RecordError

_SUFFIXES = (".parquet", ".arrow")
_PATTERN = re.compile(r"[*?]")
_SPLIT = re.compile(
    r"(?:^|[/_-])(train|training|validation|valid|val|dev|test|testing|eval)(?=[-_./0-9])"
)
_ALIKE = {"training": "train", "valid": "validation", "val": "validation", "testing": "test"}


def is_pattern(path: Path) -> bool:
    """Whether a path names several files, such as `data/train-*.parquet`."""
    return bool(_PATTERN.search(str(path))) and not path.exists()


def folder_of(path: Path) -> Path:
    """The folder below which the files of a table lie."""
    if path.is_dir():
        return path
    while _PATTERN.search(path.name):
        path = path.parent
        if path.is_dir():
            return path
    return path.parent


def table_files(path: Path) -> dict[str, Path]:
    """Files of a table in their order, by their path below `folder_of(path)`.

    Raises:
        RecordError: there is none, or there are several splits of a dataset.
    """
    saved = _saved_files(path) if path.is_dir() else None
    if saved is not None:
        found = saved
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES and p.is_file())
        found = {os.fspath(file.relative_to(path)): file for file in files}
        # What a program keeps for itself, such as a cache of downloads.
        found = {name: file for name, file in found.items() if "/." not in f"/{name}"}
        _refuse_splits(path, list(found))
    elif is_pattern(path):
        folder = folder_of(path)
        files = sorted(folder.glob(os.fspath(path.relative_to(folder))))
        found = {os.fspath(file.relative_to(folder)): file for file in files if file.is_file()}
    else:
        found = {path.name: path}
    if not found:
        raise RecordError(f"{path}: there is no .parquet or .arrow file; check the path")
    return found


def _saved_files(path: Path) -> dict[str, Path] | None:
    """Files of a folder that `save_to_disk` wrote, in the order that it noted."""
    if (path / "dataset_dict.json").exists():
        splits = _names(_json(path / "dataset_dict.json").get("splits"), path)
        if len(splits) != 1:
            _refuse_several(path, splits)
        inside = _saved_files(path / splits[0]) or {}
        return {f"{splits[0]}/{name}": file for name, file in inside.items()}
    if not (path / "state.json").exists():
        return None
    state = _json(path / "state.json")
    if state.get("_indices_data_files"):
        raise RecordError(
            f"{path}: is a selection from a larger table; write it out first: "
            "dataset.flatten_indices().save_to_disk(...)"
        )
    names = _names(state.get("_data_files"), path)
    for name in names:
        # Not Path.is_file: a name can be too long for a file.
        if not os.path.isfile(path / name):
            raise RecordError(
                f"{path}: {name[:200]!r}, which datasets noted, is not there; save it all again"
            )
    return {name: path / name for name in names}


def _names(listed: object, path: Path) -> list[str]:
    """File names that `datasets` noted; a dataset is not trusted to name files of its own alone."""
    found = []
    for entry in listed if isinstance(listed, list) else []:
        name = entry.get("filename") if isinstance(entry, dict) else entry
        if not isinstance(name, str) or not _is_inside(name):
            raise RecordError(f"{path}: what datasets noted is broken; save the dataset again")
        found.append(name)
    return found


def _is_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read: {error}; save the dataset again") from error
    return value if isinstance(value, dict) else {}


def _refuse_splits(path: Path, files: list[str]) -> None:
    """Training on a test split by accident is not to be noticed months later."""
    splits = []
    for file in files:
        for match in _SPLIT.finditer(file):
            name = _ALIKE.get(match[1], match[1])
            splits += [] if name in splits else [name]
    if len(splits) > 1:
        _refuse_several(path, splits)


def _refuse_several(path: Path, names: list[str]) -> NoReturn:
    raise RecordError(
        f"{path}: holds the splits {', '.join(names)[:200]}; give one of them: its folder, or a "
        f"pattern in quotes such as '{path}/**/train-*'"
    )
