"""Samples as energon's reader gives them to the task encoder, and what their encoders hear."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from megatron.energon import CrudeSample, WorkerConfig

from ...errors import NevaPrepError, ShardError
from ...loaders.config import MultiModalSampleConfig
from ...loaders.dataset_kind import DatasetKind
from ...loaders.encoders import ENCODERS
from ...loaders.members import JSON_MEMBER
from ...loaders.read_image import image_bytes
from ...loaders.sample import FailedSample, cook_or_fail
from ...loaders.shard import Stored
from ...loaders.trust import TrustedDataset
from ...loaders.webdataset import CheckedWebdataset
from .sample import turns_of, view_image
from .view import ImageView, Place, SampleView


def open_factory(trusted: TrustedDataset, kind: DatasetKind) -> CheckedWebdataset:
    """The reader of a dataset that training uses; one split stands for all.

    Raises:
        ShardError: no split has a shard, or `field_map` names no field.
    """
    split = next((name for name, shards in trusted.splits.items() if shards), None)
    if split is None:
        raise ShardError(f"{trusted.path}: no split has a shard; prepare the dataset again")
    worker = WorkerConfig(rank=0, world_size=1, num_workers=0)
    return CheckedWebdataset(trusted, kind, split=split, training=False, worker_config=worker)


def load_sample(factory: CheckedWebdataset, stored: Stored) -> Any:
    """A sample as the task encoder gets it; a FailedSample where its members give none."""
    raw = {
        **stored.members,
        "__key__": stored.key,
        "__restore_key__": (),
        "__sources__": (),
        "__subflavors__": {},
    }
    sample = factory.load_sample(raw)
    return cook_or_fail(sample) if isinstance(sample, CrudeSample) else sample


@dataclass
class Heard:
    """In place of TextRules: takes from a sample's encoder what it would have tokenized."""

    config: MultiModalSampleConfig = field(default_factory=MultiModalSampleConfig)
    messages: list[dict[str, Any]] = field(default_factory=list)
    images: tuple[Any, ...] = ()

    def encode(
        self, key: str, messages: Sequence[Mapping[str, Any]], images: Sequence[Any], *_: Any
    ) -> None:
        """Note messages and images."""
        self.messages = [dict(message) for message in messages]
        self.images = tuple(images)


def hear(sample: Any) -> Heard:
    """The messages and images that the encoder of a sample's type makes of it.

    Raises:
        NevaPrepError: the sample is bad.
    """
    if isinstance(sample, FailedSample):
        raise sample.error
    heard = Heard()
    encode: Any = ENCODERS.get(type(sample).__name__)
    if encode is None:
        raise NevaPrepError(
            f"{type(sample).__name__}: no encoder is known for this type of sample; known are "
            f"{', '.join(sorted(ENCODERS))}"
        )
    encode(sample, heard)
    return heard


class TypedReader:
    """Looks at samples of energon's types."""

    def __init__(self, factory: CheckedWebdataset) -> None:
        self._factory = factory

    def record(self, stored: Stored) -> tuple[bytes, NevaPrepError | None]:
        """The fields of a sample as JSON, and what is wrong with it."""
        sample = load_sample(self._factory, stored)
        if isinstance(sample, FailedSample):
            return _members_as_json(stored), sample.error
        names = {id(data): name for name, data in stored.members.items()}
        fields = {name: _plain(value, names) for name, value in _fields(sample).items()}
        error: NevaPrepError | None = None
        try:
            hear(sample)
        except NevaPrepError as found:
            error = found
        return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass"), error

    def messages(self, stored: Stored) -> list[dict[str, Any]]:
        """The conversation that is tokenized."""
        return hear(load_sample(self._factory, stored)).messages

    def sample(self, stored: Stored, place: Place) -> SampleView:
        """The conversation that is tokenized, and its images."""
        sample = load_sample(self._factory, stored)
        heard = hear(sample)
        names = {id(data): name for name, data in stored.members.items()}
        return SampleView(
            place=place,
            id=stored.key,
            key=stored.key,
            turns=tuple(
                # Whatever role its encoder gives to a row of texts, all of them are trained.
                replace(turn, role="text") if "Interleaved" in type(sample).__name__ else turn
                for turn in turns_of(heard.messages)
            ),
            images=tuple(
                _view(image, number, names, stored) for number, image in enumerate(heard.images)
            ),
            fields={name: _plain(value, names) for name, value in _fields(sample).items()},
        )


def _fields(sample: Any) -> dict[str, Any]:
    return {
        one.name: getattr(sample, one.name)
        for one in dataclasses.fields(sample)
        if not one.name.startswith("__")
    }


def _view(image: Any, number: int, names: Mapping[int, str], stored: Stored) -> ImageView:
    name = names.get(id(image), f"image {number}")
    data = image_bytes(image, name)
    return view_image(data, name=name, source=name, offset=stored.offsets.get(name))


def _plain(value: Any, names: Mapping[int, str]) -> Any:
    """A field as JSON has it; a member in it is named, not shown."""
    if isinstance(value, bytes):
        return f"<{names.get(id(value), f'{len(value):,} bytes')}>"
    if isinstance(value, list | tuple):
        return [_plain(one, names) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one, names) for key, one in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    return _plain(value.tolist(), names) if hasattr(value, "tolist") else str(value)


def _members_as_json(stored: Stored) -> bytes:
    if JSON_MEMBER in stored.members:
        return stored.members[JSON_MEMBER]
    sizes = {name: f"<{len(data):,} bytes>" for name, data in stored.members.items()}
    return json.dumps(sizes, ensure_ascii=False).encode()
