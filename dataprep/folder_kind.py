"""What a folder is: a dataset, a source, or the blend that convert makes of several sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ShardError
from ..loaders.format import INFO_FILE, JOURNAL_DIR, MANIFEST_FILE
from ..loaders.trust import read_plain_yaml
from .readers.open import CONTAINERS
from .readers.recognize import recognize
from .sources import METADATASET_FILE


def holds_source(path: Path) -> bool:
    """Whether it is a file, or a folder that convert reads as a source: of tables, or of tars."""
    if not path.is_dir():
        return True
    if any((path / name).exists() for name in (INFO_FILE, MANIFEST_FILE, JOURNAL_DIR)):
        return False
    return recognize(path).name in CONTAINERS


def is_blend(folder: Path) -> bool:
    """Whether a folder holds datasets and their blend, and is no dataset itself."""
    is_dataset = any((folder / name).exists() for name in (INFO_FILE, MANIFEST_FILE))
    return not is_dataset and (folder / METADATASET_FILE).is_file()


def datasets_in(folder: Path) -> list[Path]:
    """The datasets that the blend of a folder names, each once, in their order.

    Raises:
        ShardError: the file is damaged, names none, or names one that is not in the folder.
    """
    file = folder / METADATASET_FILE
    content = read_plain_yaml(file)
    named = list(dict.fromkeys(_paths(content.get("splits")) if isinstance(content, dict) else ()))
    if not named:
        raise ShardError(f"{file}: names no datasets; convert again")
    datasets = []
    for name in named:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ShardError(
                f"{file}: names {name!r}, which lies outside the folder; give that dataset by "
                "itself"
            )
        if not path.is_dir():
            raise ShardError(f"{file}: names {name!r}, which is not there; convert again")
        datasets.append(path)
    return datasets


def refuse_blend(folder: Path) -> None:
    """Refuse a blend where a single dataset is wanted, and name those that it has.

    Raises:
        ConfigError: it is one.
        ShardError: it is one, and its file is damaged.
    """
    if is_blend(folder):
        names = ", ".join(str(path) for path in datasets_in(folder))
        raise ConfigError(f"{folder}: is a blend of several datasets; give one of them: {names}")


def _paths(node: Any) -> Iterator[str]:
    """Every `path` below a node of the file."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "path" and isinstance(value, str):
                yield value
            else:
                yield from _paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from _paths(value)
