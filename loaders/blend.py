"""What a loader reads: one dataset, or several in proportions, from Python or a metadataset file.

path | {path: weight} | metadataset.yaml ──check──▶ Blend of checked datasets
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from megatron.energon import WorkerConfig
from megatron.energon.flavors.webdataset.structs import DatasetSubset
from megatron.energon.metadataset.metadataset_v2 import Subset

from ..errors import ConfigError, ShardError
from .dataset_kind import DatasetKind, check_typed_dataset
from .metadataset import check_metadataset
from .remote import is_remote
from .remote_cache import cached_dataset
from .shard_fingerprint import fingerprint_shards
from .trust import TrustedDataset, read_plain_yaml
from .webdataset import CheckedWebdataset

Path_ = str | os.PathLike[str]
DatasetPath = Path_ | Mapping[str, float] | Mapping[Path, float]
"""A dataset's folder or address (`s3://bucket/shards`), a metadataset's file, or folders and
addresses with the weights of their samples."""
Mode = Literal["single", "weights", "repetitions"]
_PARALLEL_SHARDS = 16
"""Shards that a worker reads in turns when it shuffles."""


class Part(Protocol):
    """One dataset in a blend, wherever its samples come from."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def samples(self) -> int:
        """Samples of an epoch, without repetitions."""
        ...

    @property
    def shards(self) -> int | None:
        """Files that readers divide among them; None where samples are read one by one."""
        ...

    @property
    def number(self) -> float:
        """Weight or repetitions, as the blend's mode says."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What decides its samples and their order, as plain data without paths."""
        ...

    def open(self, workers: WorkerConfig, *, training: bool, shuffle: bool) -> Any:
        """The dataset in energon's terms, for the readers of one rank."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPart:
    """One split of a dataset in shards."""

    dataset: TrustedDataset
    kind: DatasetKind
    split: str
    number: float = 1.0
    """Weight or repetitions, as the blend's mode says."""
    subset: DatasetSubset | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.dataset.path}, split {self.split}"

    @property
    def samples(self) -> int:
        """Samples of an epoch, without repetitions."""
        names = self.dataset.splits[self.split]
        total = sum(self.dataset.shard_samples[name] for name in names)
        if self.subset is None:
            return total
        start, end = self.subset.compute_subset(total)
        return int(end - start)

    @property
    def shards(self) -> int:
        """Shards of the split."""
        return len(self.dataset.splits[self.split])

    def fingerprint(self) -> dict[str, Any]:
        """Shards by name, samples, size and, where our manifest has them, hashes.

        Raises:
            ShardError: a shard is missing.
        """
        return {
            "split": self.split,
            "samples": self.samples,
            "shards": fingerprint_shards(self.dataset, self.split),
            "number": self.number,
            "subset": self.subset.config() if self.subset else None,
            "kind": repr(self.kind),
            "excluded": sorted(self.dataset.excluded_samples),
        }

    def open(self, workers: WorkerConfig, *, training: bool, shuffle: bool) -> CheckedWebdataset:
        """The split in energon's terms."""
        return CheckedWebdataset(
            self.dataset,
            self.kind,
            split=self.split,
            worker_config=workers,
            subset=self.subset,
            training=training,
            shuffle_over_epochs=1 if shuffle else None,
            parallel_shard_iters=_PARALLEL_SHARDS if shuffle else 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """The datasets of a loader."""

    name: str
    """For messages."""
    mode: Mode
    """`single`: one dataset, `weights`: samples are drawn in proportion to the weights,
    `repetitions`: an epoch has each dataset so many times."""
    parts: tuple[Part, ...]

    @property
    def samples(self) -> int:
        """Samples of an epoch; under weights, of each dataset once."""
        times = (part.number if self.mode == "repetitions" else 1 for part in self.parts)
        return int(sum(part.samples * each for part, each in zip(self.parts, times, strict=True)))


def open_blend(path: DatasetPath, split: str, *, trust_dataset_code: bool = False) -> Blend:
    """Check everything that a path leads to, and find the datasets under it.

    Args:
        path: a dataset's folder or address, a metadataset's file, or a map from those of datasets
            to weights.
        split: name of the split.
        trust_dataset_code: whether Python files of the datasets may be run.

    Raises:
        ConfigError: a dataset has no such split or no samples in it, or weights make no sense.
        UntrustedDatasetError: a file asks for more than the allowlist grants.
        ShardError: a dataset is missing or damaged.
    """
    if isinstance(path, Mapping):
        parts = [
            _part(folder, split, trust_dataset_code, number=_weight(folder, weight))
            for folder, weight in path.items()
        ]
        if not parts:
            raise ConfigError("path={}: names no dataset; give {folder: weight}")
        return Blend(name=" + ".join(map(str, path)), mode="weights", parts=tuple(parts))
    if is_remote(path) or not Path(path).is_file():
        part = _part(path, split, trust_dataset_code)
        return Blend(name=str(path), mode="single", parts=(part,))

    def check(dataset: Path) -> object:
        return check_typed_dataset(dataset, trust_dataset_code=trust_dataset_code)

    check_metadataset(path, check=check)
    found = list(_parts_of_file(Path(path), split, trust_dataset_code))
    modes = {mode for mode, _ in found}
    if len(modes) > 1:
        raise ConfigError(
            f"{path}: split {split!r} mixes 'blend' with 'blend_epochized'; use one of them"
        )
    return Blend(name=str(path), mode=modes.pop(), parts=tuple(part for _, part in found))


def _part(folder: Path_, split: str, trust_dataset_code: bool, *, number: float = 1.0) -> ShardPart:
    # To energon `s3://` would be a folder here, and empty.
    local = cached_dataset(folder) if is_remote(folder) else Path(folder)
    dataset, kind = check_typed_dataset(local, trust_dataset_code=trust_dataset_code)
    filled = ", ".join(name for name, shards in dataset.splits.items() if shards) or "none"
    if split not in dataset.splits:
        raise ConfigError(f"{folder}: has no split {split!r}; splits with samples: {filled}")
    part = ShardPart(dataset=dataset, kind=kind, split=split, number=number)
    if part.samples == 0:
        raise ConfigError(f"{folder}: split {split!r} is empty; with samples: {filled}")
    return part


def _parts_of_file(
    file: Path, split: str, trust_dataset_code: bool
) -> Iterator[tuple[Mode, ShardPart]]:
    """The datasets of a checked metadataset, with nested weights multiplied as energon does."""
    splits = read_plain_yaml(file)["splits"]
    if split not in splits:
        raise ConfigError(f"{file}: has no split {split!r}; it has {', '.join(splits)}")
    yield from _parts_of_node(file, splits[split], split, trust_dataset_code, None)


def _parts_of_node(
    file: Path,
    node: dict[str, Any],
    split: str,
    trust_dataset_code: bool,
    outer: DatasetSubset | None,
) -> Iterator[tuple[Mode, ShardPart]]:
    subset = _subset(file, node, outer)
    if "path" in node:
        target = file.parent / str(node["path"])
        inner_split = node.get("split_part") or split
        if target.is_dir():
            found: Iterator[tuple[Mode, ShardPart]] = iter(
                [("single", replace(_part(target, inner_split, trust_dataset_code), subset=subset))]
            )
        else:
            nested = read_plain_yaml(target)["splits"].get(inner_split)
            if nested is None:
                raise ConfigError(f"{target}: has no split {inner_split!r}")
            found = _parts_of_node(target, nested, inner_split, trust_dataset_code, subset)
        subflavors = node.get("subflavors") or {}
        for mode, part in found:
            own = {**part.dataset.subflavors, **subflavors}
            yield mode, replace(part, dataset=replace(part.dataset, subflavors=own))
        return
    children, mode, field = _children(file, node)
    total = sum(float(child.get("weight", 1.0)) for child in children) or 1.0
    for child in children:
        number = _weight(child.get("path"), child.get(field, 1.0))
        for inner_mode, part in _parts_of_node(file, child, split, trust_dataset_code, subset):
            if inner_mode not in ("single", mode):
                raise ConfigError(f"{file}: mixes 'blend' with 'blend_epochized'; use one of them")
            share = number / total if mode == "weights" else number
            yield mode, replace(part, number=part.number * share)


def _children(file: Path, node: dict[str, Any]) -> tuple[list[dict[str, Any]], Mode, str]:
    if "blend" in node:
        return node["blend"], "weights", "weight"
    if "blend_epochized" in node:
        return node["blend_epochized"], "repetitions", "repetitions"
    if "datasets" in node:  # The older Metadataset.
        return node["datasets"], "weights", "weight"
    raise ShardError(f"{file}: a split has none of 'path', 'blend' and 'blend_epochized'")


def _subset(file: Path, node: dict[str, Any], outer: DatasetSubset | None) -> DatasetSubset | None:
    given = node.get("subset")
    if given is None:
        return outer
    try:
        start, end = given["range"]
        return Subset(range=(start, end)).merge(outer)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{file}: subset {given!r} is not as energon has it: {error}") from error


def _weight(folder: Any, weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise ConfigError(f"{folder}: weight {weight!r} must be a number above 0")
    return float(weight)
