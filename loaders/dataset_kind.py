"""What kind of samples a dataset has, from its dataset.yaml, held against an allowlist.

Four kinds pass: crude ones, such as convert writes; energon's typed ones whose `field_map` says
where each field is; typed ones whose Python file is sample_loader.py as it stands beside this file,
which is called in its place; and, only with `trust_dataset_code`, those with any other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ShardError
from . import sample_loader as known
from .format import DATASET_FILE, SPLIT_FILE
from .trust import (
    MODULE,
    TrustedDataset,
    check_dataset_yaml,
    check_keys,
    check_split_yaml,
    read_plain_yaml,
    read_shard_samples,
    refuse,
    refuse_code,
)

SAMPLE_TYPES = (
    "CaptioningSample",
    "ImageClassificationSample",
    "ImageSample",
    "InterleavedSample",
    "MultiChoiceVQASample",
    "OCRSample",
    "SimilarityInterleavedSample",
    "TextSample",
    "VQASample",
)
"""Sample types of energon that dataset.yaml may name; each is plain data."""

LOADER_FILE = "sample_loader.py"
KNOWN_LOADERS = {
    "InterleavedSample": known.interleaved,
    "SimilarityInterleavedSample": known.similarity,
}
"""Sample type -> the function of sample_loader.py that makes it."""

_TYPED_KEYS = frozenset({"sample_type", "field_map", "subflavors"})
_CODE_KEYS = frozenset({"sample_loader", "part_filter"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetKind:
    """How the members of a sample become a sample."""

    sample_type: str | None = None
    """Of energon; None where a cooker makes the samples."""
    field_map: dict[str, str] | None = None
    """Field -> place in the members, such as `json[question]`."""
    sample_loader: str | None = None
    """`file.py:function` in the dataset's metadata folder; only if its code is trusted."""
    part_filter: str | list[str] | None = None
    """Members that the sample loader sees: a function like it, or their names; None for all."""
    is_known: bool = False
    """Whether the code is ours: KNOWN_LOADERS has it, and the dataset's copy is not run."""


CRUDE = DatasetKind()


def check_typed_dataset(
    path: str | os.PathLike[str], *, trust_dataset_code: bool = False
) -> tuple[TrustedDataset, DatasetKind]:
    """Read the metadata of a dataset of any kind and refuse what could do harm.

    Args:
        path: the dataset.
        trust_dataset_code: whether a Python file of the dataset may be run.

    Raises:
        UntrustedDatasetError: dataset.yaml or split.yaml asks for more than the allowlist grants.
        ShardError: there is no finished dataset here, or its metadata is damaged.
    """
    dataset = Path(path)
    shard_samples = read_shard_samples(dataset)
    file = dataset / DATASET_FILE
    kind, subflavors = read_kind(file, trust_dataset_code=trust_dataset_code)
    splits, excluded = check_split_yaml(dataset / SPLIT_FILE)
    for split, shards in splits.items():
        if unknown := [name for name in shards if name not in shard_samples]:
            raise ShardError(
                f"{dataset}: split {split!r} names {unknown[0]}, which the index does not know; "
                "prepare the dataset again"
            )
    trusted = TrustedDataset(
        path=dataset,
        shard_samples=shard_samples,
        splits=splits,
        excluded_samples=excluded,
        subflavors=subflavors,
    )
    return trusted, kind


def read_kind(
    file: Path, *, trust_dataset_code: bool = False
) -> tuple[DatasetKind, dict[str, Any]]:
    """The kind of dataset that a dataset.yaml describes, and its subflavors.

    Raises:
        UntrustedDatasetError: it asks for code, for another class, or has an unknown key.
        ShardError: it is missing or damaged.
    """
    config = read_plain_yaml(file)
    named = _sample_type(config)
    if named is None:
        return CRUDE, check_dataset_yaml(file)
    if named not in SAMPLE_TYPES:
        allowed = ", ".join(("CrudeWebdataset", *SAMPLE_TYPES))
        refuse(file, "", f"asks for the sample type {named}", f"known are {allowed}")
    described = {key: value for key, value in config.items() if key not in _CLASS_KEYS}
    is_known = _is_known(file, named, described)
    may_have_code = trust_dataset_code or is_known
    allowed_keys = _TYPED_KEYS | (_CODE_KEYS if may_have_code else frozenset())
    for key in sorted(_CODE_KEYS & described.keys()):
        if not may_have_code:
            refuse(
                file,
                key,
                f"is {described[key]!r}, code that energon would run",
                "describe the fields with 'field_map', or pass trust_dataset_code=True if you "
                "wrote that file",
            )
    check_keys(file, "", described, allowed_keys)
    subflavors = described.get("subflavors") or {}
    refuse_code(file, "subflavors", subflavors)
    if not isinstance(subflavors, dict):
        raise ShardError(f"{file}: 'subflavors' is no map; write it as 'key: value' lines")
    return _typed(file, named, described, is_known), subflavors


def known_loader_text() -> bytes:
    """The code that a dataset may have: sample_loader.py, as it stands here."""
    return Path(known.__file__).read_bytes()


def _is_known(file: Path, sample_type: str, described: dict[str, Any]) -> bool:
    """Whether a dataset's code is ours, byte for byte."""
    if sample_type not in KNOWN_LOADERS:
        return False
    named = described.get("sample_loader"), described.get("part_filter")
    function = KNOWN_LOADERS[sample_type].__name__
    if named != (f"{LOADER_FILE}:{function}", f"{LOADER_FILE}:part_filter"):
        return False
    code = file.parent / LOADER_FILE
    try:
        return code.is_file() and code.read_bytes() == known_loader_text()
    except OSError:
        return False


_CLASS_KEYS = frozenset({"__module__", "__class__"})


def _sample_type(config: Any) -> str | None:
    """The sample type that a config names, in either of energon's two ways; None for a crude one.

    As `sample_type: {__module__, __class__}`, or by the older `__class__: VQAWebdataset`.
    """
    if not isinstance(config, dict) or "__function__" in config:
        return None
    if "__class__" in config:
        named = config["__class__"]
        typed = isinstance(named, str) and named.endswith("Webdataset")
        if config.get("__module__") != MODULE or not typed or named == "CrudeWebdataset":
            return None
        return str(named).removesuffix("Webdataset") + "Sample"
    described = config.get("sample_type")
    if not isinstance(described, dict) or set(described) != _CLASS_KEYS:
        return None
    return str(described["__class__"]) if described["__module__"] == MODULE else None


def _typed(file: Path, sample_type: str, described: dict[str, Any], is_known: bool) -> DatasetKind:
    has_code = "sample_loader" in described
    if has_code == ("field_map" in described):
        raise ShardError(
            f"{file}: has {'both' if has_code else 'neither'} of 'field_map' and 'sample_loader'; "
            "give one of them"
        )
    try:
        return DatasetKind(
            sample_type=sample_type,
            field_map=msgspec.convert(described.get("field_map"), dict[str, str] | None),
            sample_loader=msgspec.convert(described.get("sample_loader"), str | None),
            part_filter=msgspec.convert(described.get("part_filter"), str | list[str] | None),
            is_known=is_known,
        )
    except msgspec.ValidationError as error:
        raise ShardError(f"{file}: is not as energon writes it ({error}); correct it") from error
