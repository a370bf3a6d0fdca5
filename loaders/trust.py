"""What a dataset may ask of energon: its YAML is held against an allowlist before energon sees it.

energon imports and calls whatever `dataset.yaml` or a metadataset names, so an untrusted dataset
could run any program. Here the files are read as plain data, and everything that is not known to be
harmless is refused.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import braceexpand
import msgspec
import yaml

from ..errors import ShardError
from .format import DATASET_FILE, INFO_FILE, SPLIT_FILE

MODULE = "megatron.energon"
DATASET_CLASSES = {"CrudeWebdataset": frozenset({"subflavors"})}
"""Classes that dataset.yaml may name -> further keys that it may then hold."""
MAX_SHARDS = 1_000_000

CODE_KEYS = frozenset({"__module__", "__class__", "__function__"})
_RUNS_CODE = {
    "sample_loader": "names a Python file that energon would run",
    "part_filter": "can name a Python file that energon would run",
    "joiner": "names a function that energon would import",
}
_NUMBER_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")


class UntrustedDatasetError(ShardError):
    """A dataset's own files ask for something that is not on the allowlist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedDataset:
    """What a dataset's metadata says, once it has been checked."""

    path: Path
    shard_samples: dict[str, int]
    """Shard -> number of samples, in the order of the index."""
    splits: dict[str, tuple[str, ...]]
    """Split -> its shards, the excluded ones left out."""
    excluded_samples: frozenset[str]
    """`shard/key` of samples that are left out."""
    subflavors: dict[str, Any]


def check_dataset(path: str | os.PathLike[str]) -> TrustedDataset:
    """Read the metadata of a dataset and refuse what could do harm.

    Raises:
        UntrustedDatasetError: dataset.yaml or split.yaml asks for more than the allowlist grants.
        ShardError: there is no finished dataset here, or its metadata is damaged.
    """
    dataset = Path(path)
    shard_samples = read_shard_samples(dataset)
    subflavors = check_dataset_yaml(dataset / DATASET_FILE)
    splits, excluded_samples = check_split_yaml(dataset / SPLIT_FILE)
    for split, shards in splits.items():
        if unknown := [name for name in shards if name not in shard_samples]:
            raise ShardError(
                f"{dataset / SPLIT_FILE}: split {split!r} names {unknown[0]}, which {INFO_FILE} "
                "does not know; convert again"
            )
    return TrustedDataset(
        path=dataset,
        shard_samples=shard_samples,
        splits=splits,
        excluded_samples=excluded_samples,
        subflavors=subflavors,
    )


def read_shard_samples(dataset: Path) -> dict[str, int]:
    """Number of samples of every shard, from .info.json, in the order of the index.

    Raises:
        ShardError: the file is missing (it is written last, so the conversion is not finished) or
            damaged.
        UntrustedDatasetError: a shard lies outside the dataset.
    """
    file = dataset / INFO_FILE
    try:
        counts = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])["shard_counts"]
        shard_samples: dict[str, int] = msgspec.convert(counts, dict[str, int])
    except FileNotFoundError as error:
        if not dataset.is_dir():
            raise ShardError(f"{dataset}: no such folder; give the --out of a convert") from error
        raise ShardError(
            f"{dataset}: has no {INFO_FILE}, which is written last: no dataset is here, every "
            "record was rejected, or the conversion is not finished; run the same neva-prep "
            "convert with --resume"
        ) from error
    except (OSError, KeyError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ShardError(f"{file}: cannot be read ({error}); convert again") from error
    for name in shard_samples:
        _check_shard_name(file, name)
    return shard_samples


def read_plain_yaml(file: Path) -> Any:
    """The content of a YAML file that every YAML reader understands alike.

    energon has another parser than this module. Tags, anchors, merge keys, repeated keys and
    further documents are where two parsers may differ, so a file with any of them is refused.

    Raises:
        UntrustedDatasetError: the file has one of them.
        ShardError: the file is missing or no YAML.
    """
    try:
        text = file.read_text("utf-8")
        documents = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            documents += isinstance(event, yaml.DocumentStartEvent)
            if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
                _refuse_yaml(file, event, "an anchor or alias")
            if getattr(event, "tag", None) is not None:
                _refuse_yaml(file, event, "a tag")
            if documents > 1 or getattr(event, "version", None) or getattr(event, "tags", None):
                _refuse_yaml(file, event, "a directive or a second document")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _check_mapping_keys(file, root)
        return yaml.safe_load(text)
    except FileNotFoundError as error:
        raise ShardError(f"{file}: is missing; convert again") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ShardError(f"{file}: is no readable YAML ({error}); convert again") from error


def expand_shard_names(file: Path, patterns: list[str]) -> list[str]:
    """Shard names from patterns like `train-{000000..000007}.tar`.

    Raises:
        UntrustedDatasetError: a name leads out of the dataset, or there are absurdly many.
        ShardError: a pattern cannot be expanded: a brace is not closed, say.
    """
    names: list[str] = []
    for pattern in patterns:
        for start, end in _NUMBER_RANGE.findall(pattern):
            # braceexpand would build the whole range in memory.
            if len(start) > 12 or len(end) > 12 or abs(int(end) - int(start)) > MAX_SHARDS:
                refuse(file, pattern, f"stands for more than {MAX_SHARDS:,} shards", "correct it")
        room = MAX_SHARDS - len(names)
        try:
            names.extend(islice(braceexpand.braceexpand(pattern), room + 1))
        except ValueError as error:
            # An UnbalancedBracesError, say: that name is not in the library's types.
            raise ShardError(
                f"{file}: {pattern!r} cannot be expanded ({error}); correct it, or convert again"
            ) from error
        if len(names) > MAX_SHARDS:
            refuse(file, pattern, f"stands for more than {MAX_SHARDS:,} shards", "correct it")
    for name in names:
        _check_shard_name(file, name)
    return names


def check_dataset_yaml(file: Path) -> dict[str, Any]:
    """The subflavors that dataset.yaml sets.

    Raises:
        UntrustedDatasetError: it names another class than those allowed, or any other key.
        ShardError: it is missing or damaged.
    """
    config = read_plain_yaml(file)
    class_name = check_class(file, config, frozenset(DATASET_CLASSES))
    further = DATASET_CLASSES[class_name]
    check_keys(file, "", config, CODE_KEYS - {"__function__"} | further)
    subflavors = config.get("subflavors") or {}
    if not isinstance(subflavors, dict):
        raise ShardError(f"{file}: 'subflavors' is no map; write it as 'key: value' lines")
    refuse_code(file, "subflavors", subflavors)
    return subflavors


def check_split_yaml(file: Path) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """The shards of each split, and the samples (`shard/key`) that are left out.

    Raises:
        UntrustedDatasetError: a shard lies outside the dataset.
        ShardError: it is missing or damaged.
    """
    config = read_plain_yaml(file)
    if not isinstance(config, dict):
        raise ShardError(f"{file}: is no map; convert again")
    check_keys(file, "", config, frozenset({"split_parts", "exclude"}))
    try:
        patterns = msgspec.convert(config.get("split_parts"), dict[str, list[str]])
        excluded = msgspec.convert(config.get("exclude") or [], list[str])
    except msgspec.ValidationError as error:
        raise ShardError(f"{file}: is not as energon writes it ({error}); convert again") from error
    left_out = set(excluded)
    splits = {
        split: tuple(name for name in expand_shard_names(file, names) if name not in left_out)
        for split, names in patterns.items()
    }
    return splits, frozenset(name for name in excluded if "/" in name)


def check_class(file: Path, config: Any, allowed: frozenset[str]) -> str:
    """The class of energon that a file names; any other than those allowed is refused."""
    if not isinstance(config, dict):
        raise ShardError(f"{file}: is no map; convert again")
    named = config.get("__class__", config.get("__function__"))
    if "__function__" in config or config.get("__module__") != MODULE or named not in allowed:
        refuse(
            file,
            "",
            f"asks energon to import {config.get('__module__')}.{named}",
            f"only {', '.join(sorted(allowed))} of {MODULE} may be named",
        )
    return str(named)


def check_keys(file: Path, where: str, node: dict[str, Any], allowed: frozenset[str]) -> None:
    """Refuse a map that has any key but those allowed."""
    for key in node:
        if key not in allowed:
            finding = _RUNS_CODE.get(key, "is not on the allowlist")
            refuse(file, f"{where}.{key}".lstrip("."), finding, "remove it")


def refuse_code(file: Path, where: str, value: Any) -> None:
    """Refuse a plain value that has, at any depth, a key that makes energon import something."""
    if isinstance(value, dict):
        for key, child in value.items():
            if key in CODE_KEYS:
                refuse(file, where, "asks energon to import and call code", "use plain values")
            refuse_code(file, f"{where}.{key}", child)
    elif isinstance(value, list):
        for number, child in enumerate(value):
            refuse_code(file, f"{where}[{number}]", child)


def _check_shard_name(file: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or "://" in name:
        refuse(file, name, "leads out of the dataset", "name shards by their place in it")
    if path.suffix != ".tar":
        refuse(file, name, "is no .tar", "list shards only")


def _check_mapping_keys(file: Path, node: yaml.Node) -> None:
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _check_mapping_keys(file, child)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            if key.tag != "tag:yaml.org,2002:str" or key.value in seen:
                _refuse_yaml(file, key, f"the key {key.value!r}, repeated or no plain text")
            seen.add(key.value)
            _check_mapping_keys(file, child)


def _refuse_yaml(file: Path, at: yaml.Event | yaml.Node, what: str) -> NoReturn:
    line = at.start_mark.line + 1 if at.start_mark else 1
    refuse(file, f"line {line}", f"has {what}", "write plain maps, lists and values")


def refuse(file: Path, where: str, finding: str, way_out: str) -> NoReturn:
    """Raise the UntrustedDatasetError for a place in a file."""
    place = f"{file}: {where}" if where else f"{file}:"
    raise UntrustedDatasetError(
        f"{place} {finding}; a dataset may not run code or reach outside itself: {way_out}"
    )
