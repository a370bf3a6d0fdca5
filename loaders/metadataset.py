"""Metadatasets, which name other datasets, held against the allowlist of trust.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ShardError
from .trust import (
    CODE_KEYS,
    check_class,
    check_dataset,
    check_keys,
    read_plain_yaml,
    refuse,
    refuse_code,
)

CLASSES = frozenset({"MetadatasetV2", "Metadataset"})
MAX_NESTING = 8
"""Metadatasets within metadatasets."""

_REFERENCE_KEYS = frozenset(
    {
        "path",
        "split_part",
        "subflavors",
        "weight",
        "repetitions",
        "subset",
        "shuffle_over_epochs_multiplier",
    }
)
_NESTED_KEYS = frozenset({"blend", "blend_epochized", "datasets"})


def _check_crude(dataset: Path) -> None:
    check_dataset(dataset)


def check_metadataset(
    path: str | os.PathLike[str],
    *,
    check: Callable[[Path], object] = _check_crude,
    _depth: int = 0,
) -> list[Path]:
    """Check a metadataset file and every dataset that it refers to.

    Args:
        path: the file.
        check: raises for a dataset that must not be opened; by default any but a crude one.

    Returns:
        The dataset folders, in the order in which the file names them.

    Raises:
        UntrustedDatasetError: the file, or a dataset under it, asks for more than the allowlist
            grants, or leads out of the file's folder.
        ShardError: a file is missing or damaged.
    """
    file = Path(path)
    if _depth > MAX_NESTING:
        refuse(file, "", f"nests metadatasets more than {MAX_NESTING} deep", "flatten it")
    config = read_plain_yaml(file)
    check_class(file, config, CLASSES)
    check_keys(file, "", config, CODE_KEYS | {"splits"})
    splits = config.get("splits")
    if not isinstance(splits, dict):
        raise ShardError(f"{file}: has no 'splits'; see energon's documentation of metadatasets")
    datasets: list[Path] = []
    for split, node in splits.items():
        for where, reference in _references(file, f"splits.{split}", node):
            target = _resolve_inside(file, where, reference)
            if target.is_dir():
                check(target)
                datasets.append(target)
            else:
                datasets.extend(check_metadataset(target, check=check, _depth=_depth + 1))
    return datasets


def _references(file: Path, where: str, node: Any) -> Iterator[tuple[str, str]]:
    """Every dataset path below a node of a metadataset, with its place in the file."""
    if not isinstance(node, dict):
        raise ShardError(f"{file}: {where} is no map; see energon's documentation of metadatasets")
    check_keys(file, where, node, _REFERENCE_KEYS | _NESTED_KEYS)
    for key in ("subflavors", "subset"):
        refuse_code(file, f"{where}.{key}", node.get(key))
    if "path" in node:
        yield f"{where}.path", str(node["path"])
    for key in sorted(_NESTED_KEYS & node.keys()):
        if not isinstance(node[key], list):
            raise ShardError(f"{file}: {where}.{key} is no list; see energon's documentation")
        for number, child in enumerate(node[key]):
            yield from _references(file, f"{where}.{key}[{number}]", child)


def _resolve_inside(file: Path, where: str, reference: str) -> Path:
    folder = file.parent.resolve()
    target = (folder / reference).resolve()
    if "://" in reference or not target.is_relative_to(folder):
        refuse(file, where, f"leads out of {folder}: {reference!r}", "move the dataset there")
    if not target.exists():
        raise ShardError(f"{file}: {where} names {target}, which does not exist; correct the path")
    return target
