"""A checked dataset as energon reads it, with our safe decoding of its members."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import megatron.energon
import msgspec
from megatron.energon import CrudeSample, SavableDataset
from megatron.energon.epathlib import EPath
from megatron.energon.flavors.webdataset.base_webdataset import BaseWebdatasetFactory
from megatron.energon.flavors.webdataset.field_access import (
    field_access,
    split_field_access,
)
from megatron.energon.module_loader import ModuleLoader

from ..errors import NevaPrepError, RecordError, ShardError
from .dataset_kind import KNOWN_LOADERS, DatasetKind
from .format import DATASET_FILE, META_DIR
from .sample import FailedSample
from .sample_reader import SampleReader
from .trust import TrustedDataset

_TEXT = frozenset({"txt", "text", "transcript"})
_NUMBER = frozenset({"cls", "cls2", "index", "inx", "id"})
_JSON = frozenset({"json", "jsn"})


class CheckedWebdataset(BaseWebdatasetFactory):  # type: ignore[misc]
    """The shards of one split; its samples are crude, or of the type that dataset.yaml names.

    energon's own factories hold lambdas, which no spawned worker can take over, and decode members
    with readers that unpickle.
    """

    def __init__(
        self, dataset: TrustedDataset, kind: DatasetKind, *, split: str, **options: Any
    ) -> None:
        """Prepare to read a split.

        Args:
            dataset: checked.
            kind: of its samples.
            split: name of the split.
            options: of energon's factory: training, worker_config, shuffling, subset.

        Raises:
            ShardError: split.yaml reads differently to energon, or `field_map` names no field.
        """
        crude = kind.sample_type is None
        self.__sample_type__ = (
            CrudeSample if crude else getattr(megatron.energon, str(kind.sample_type))
        )
        self.subflavors = dict(dataset.subflavors)
        super().__init__(EPath(dataset.path.absolute()), split_part=split, **options)
        if tuple(shard.name for shard in self.shards) != dataset.splits[split]:
            raise ShardError(
                f"{dataset.path}: energon reads other shards from split.yaml than were checked; "
                "write its names as plain text"
            )
        self._folder = dataset.path.absolute()
        self._read: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        if not crude:
            self._read = _reader(dataset, kind, self.__sample_type__)

    def build(self, worker_rotation_offset: int = 0) -> SavableDataset:
        """The chain that reads this rank's share."""
        chain = super().build(worker_rotation_offset)
        chain.dataset.join_readers = [
            SampleReader(
                self._folder, self.shards, self.sample_filter, chain.dataset.parallel_slice_iters
            )
        ]
        return chain

    def load_sample(self, raw_data: Any) -> Any:
        """A sample; a FailedSample where its members do not give one."""
        base = {
            "__key__": raw_data["__key__"],
            "__restore_key__": raw_data["__restore_key__"],
            "__subflavors__": self.subflavors,
            "__sources__": raw_data["__sources__"],
        }
        if self._read is None:
            return CrudeSample({**raw_data, **base})
        members = {name: data for name, data in raw_data.items() if not name.startswith("__")}
        try:
            fields = self._read({**members, "__key__": raw_data["__key__"]})
            return self.__sample_type__(**{**fields, **base})
        except NevaPrepError as error:
            return FailedSample(**base, error=error)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            finding = " ".join(str(error).split())[:300]
            fault = RecordError(
                f"sample {raw_data['__key__']}: is no {self.__sample_type__.__name__}: {finding}; "
                f"correct the sample, or {DATASET_FILE}",
                reason="bad_members",
            )
            return FailedSample(**base, error=fault)


def _reader(
    dataset: TrustedDataset, kind: DatasetKind, sample_type: type
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    if kind.is_known:
        return _KnownReader(str(kind.sample_type))
    if kind.field_map is None:
        return _CodeReader(str(dataset.path / META_DIR), str(kind.sample_loader), kind.part_filter)
    known = {field.name for field in dataclasses.fields(sample_type)}
    needed = {
        field.name
        for field in dataclasses.fields(sample_type)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and not field.name.startswith("__")
    }
    if wrong := sorted((set(kind.field_map) - known) | (needed - set(kind.field_map))):
        raise ShardError(
            f"{dataset.path / DATASET_FILE}: field_map must name the fields of "
            f"{sample_type.__name__} ({', '.join(sorted(needed))}); wrong or missing: "
            f"{', '.join(wrong)}"
        )
    return _FieldReader(kind.field_map)


class _FieldReader:
    """Takes the fields of a sample from its members, as `field_map` says.

    A text in the place of an image that is the name of a member stands for that member, so that
    a JSON member can list its images.
    """

    def __init__(self, field_map: dict[str, str]) -> None:
        self._places = {field: split_field_access(place) for field, place in field_map.items()}

    def __call__(self, members: dict[str, Any]) -> dict[str, Any]:
        decoded = {name: decode_member(name, data) for name, data in members.items()}
        fields = {field: field_access(decoded, place) for field, place in self._places.items()}
        for field in ("image", "images", "sequence"):
            if field in fields:
                fields[field] = _with_members(fields[field], members)
        return fields


class _KnownReader:
    """Makes the fields of a sample as a dataset's copy of sample_loader.py would."""

    def __init__(self, sample_type: str) -> None:
        self._sample_type = sample_type

    def __call__(self, members: dict[str, Any]) -> dict[str, Any]:
        decoded = {name: decode_member(name, data) for name, data in members.items()}
        try:
            return KNOWN_LOADERS[self._sample_type](decoded)
        except (RuntimeError, OverflowError) as error:
            # torch's, of a matrix that is none; that file must stay as the datasets have it.
            raise ValueError(f"its similarity_matrix is no matrix of numbers: {error}") from error


class _CodeReader:
    """Calls the function of a trusted dataset; loads it where it is first called."""

    def __init__(self, folder: str, loader: str, part_filter: str | list[str] | None) -> None:
        self._folder = folder
        self._loader = loader
        self._part_filter = part_filter

    def __call__(self, members: dict[str, Any]) -> dict[str, Any]:
        decoded = {
            name: data if name.startswith("__") else decode_member(name, data)
            for name, data in members.items()
            if name.startswith("__") or self._wants(name)
        }
        fields: dict[str, Any] = self._function(self._loader, "sample_loader")(decoded)
        return fields

    def _wants(self, name: str) -> bool:
        if self._part_filter is None:
            return True
        if isinstance(self._part_filter, list):
            return name in self._part_filter
        return bool(self._function(self._part_filter, "part_filter")(name))

    def _function(self, place: str, name: str) -> Callable[..., Any]:
        loaded: Callable[..., Any] = ModuleLoader().get_function(place, name, EPath(self._folder))
        return loaded


def decode_member(name: str, data: Any) -> Any:
    """A member by its extension: JSON, text or a number; anything else stays bytes.

    Nothing is unpickled, whatever the member's name.

    Args:
        name: what follows the key, such as `json` or `0.txt`.
        data: the member.

    Raises:
        ValueError: it is not what its extension says.
    """
    extension = name.rpartition(".")[2].lower()
    if not isinstance(data, bytes):
        return data
    if extension in _JSON:
        try:
            return msgspec.json.decode(data)
        except RecursionError as error:
            raise ValueError(f"the JSON of {name} is nested too deeply") from error
    if extension in _TEXT:
        return data.decode("utf-8")
    return int(data) if extension in _NUMBER else data


def _with_members(value: Any, members: dict[str, Any]) -> Any:
    """An image field with members in place of their names; no type has lists within its list."""

    def found(item: Any) -> Any:
        return members.get(item, item) if isinstance(item, str) else item

    return [found(item) for item in value] if isinstance(value, list) else found(value)
