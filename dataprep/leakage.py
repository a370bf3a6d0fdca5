"""`--exclude`: an evaluation set whose images and questions must not be trained on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from ..errors import ConfigError, ImageError, ShardError
from ..loaders.format import IMAGE_PLACEHOLDER, MANIFEST_FILE, read_manifest
from ..loaders.loose_record import load_json
from ..loaders.turns import Turn
from .checked import check_records
from .duplicates import Place
from .options import ConvertOptions
from .perceptual import distances, look_of
from .pictures import Pictures, digest_of
from .readers.open import open_any
from .stores.open import open_images
from .tar_reader import BrokenTarError, Member, TarReader

_SPACE = re.compile(r"\s+")


class Leak(NamedTuple):
    """What a record shares with an evaluation set."""

    of: int
    """Place of the evaluation's record in `Evaluation.places`."""
    why: str
    """`exclude_image` or `exclude_question`."""
    what: str
    """The image's path, or the question."""
    bits: int = 0
    """In which images that look alike differ."""


@dataclass(slots=True)
class Evaluation:
    """Images and questions of evaluation sets."""

    radius: int | None
    """Bits by which images may differ; None where their files must be the same."""
    places: list[Place] = field(default_factory=list)
    images: dict[bytes, int] = field(default_factory=dict)
    """Hash of a file -> place of its record."""
    questions: dict[bytes, int] = field(default_factory=dict)
    """Hash of a question -> place of its record, or -1 where several records ask it."""
    looks: list[int] = field(default_factory=list)
    look_places: list[int] = field(default_factory=list)
    unreadable: int = 0
    """Records, and images of records, that could not be read."""

    def add(self, place: Place, turns: Iterable[Turn], images: Iterable[bytes]) -> None:
        """Add a record."""
        number = len(self.places)
        self.places.append(place)
        for question in set(_questions(turns)):
            known = self.questions.setdefault(_hash(question), number)
            if known != number:
                self.questions[_hash(question)] = -1
        for content in images:
            self.images.setdefault(digest_of(content), number)
            if self.radius is not None:
                look = look_of(content, ConvertOptions.pixel_limit)
                if look is not None:
                    self.looks.append(look)
                    self.look_places.append(number)


class Excluder:
    """Finds what records share with evaluation sets."""

    def __init__(self, evaluation: Evaluation, by: str) -> None:
        """Look for `images`, `questions` or `both`."""
        self._found = evaluation
        self._looks = np.array(evaluation.looks, np.uint64)
        self._by_images = by in ("images", "both")
        self._by_questions = by in ("questions", "both")

    def find(self, turns: Iterable[Turn], pictures: Pictures) -> Leak | None:
        """What a record shares, the first thing only.

        Raises:
            ImageError: one of its images is to be rejected.
        """
        if self._by_questions:
            for question in _questions(turns):
                place = self._found.questions.get(_hash(question), -1)
                if place >= 0:
                    return Leak(place, "exclude_question", question)
        if self._by_images and pictures.paths:
            return self._find_image(pictures)
        return None

    def _find_image(self, pictures: Pictures) -> Leak | None:
        for path, digest in zip(pictures.paths, pictures.digests, strict=True):
            if digest in self._found.images:
                return Leak(self._found.images[digest], "exclude_image", path)
        if self._found.radius is None or not len(self._looks):
            return None
        for path, look in zip(pictures.paths, pictures.looks, strict=True):
            if look is not None:
                apart = distances(self._looks, np.uint64(look))
                nearest = int(apart.argmin())
                if apart[nearest] <= self._found.radius:
                    of = self._found.look_places[nearest]
                    return Leak(of, "exclude_image", path, int(apart[nearest]))
        return None


def read_evaluations(given: Iterable[str], radius: int | None, work: Path) -> Evaluation:
    """Read evaluation sets.

    Args:
        given: each a dataset's folder, or a source, alone or as SOURCE=IMAGES.
        radius: see Evaluation.
        work: folder for what must be made of them.

    Raises:
        ConfigError: one is neither, or holds no record that can be read.
        RecordError: a source is broken as a whole.
        ShardError: a dataset is damaged.
    """
    evaluation = Evaluation(radius)
    for number, each in enumerate(given):
        before = len(evaluation.places)
        source, images = _split(each)
        if (source / MANIFEST_FILE).exists():
            _add_dataset(evaluation, source)
        else:
            folder = work / f"exclude-{number}"
            folder.mkdir(exist_ok=True)
            _add_source(evaluation, source, images, folder)
        if len(evaluation.places) == before:
            raise ConfigError(f"--exclude {each}: holds no record that can be read; correct it")
    return evaluation


def _split(given: str) -> tuple[Path, str | None]:
    source, _, images = given.rpartition("=")
    if os.path.exists(given) or not source:
        source, images = given, ""
    if not os.path.exists(source):
        raise ConfigError(
            f"--exclude {given}: no such file or folder; give a converted dataset, or SOURCE=IMAGES"
        )
    return Path(source), images or None


def _add_source(evaluation: Evaluation, path: Path, images: str | None, work: Path) -> None:
    source, lying = open_any(path, work)
    store = open_images(images or lying, work)
    options = ConvertOptions(check="none")
    rows = [(n, span.offset, span.length, 0) for n, span in enumerate(source.spans())]
    for found in check_records(source.data, source.reader(), rows, may_insert=True):
        if found.record is None:
            evaluation.unreadable += 1
            continue
        contents = []
        for name in found.record.images:
            try:
                contents += Pictures(store, [name], options).contents
            except ImageError:
                evaluation.unreadable += 1
        place = Place(source=source.name, index=found.ordinal, id=found.record.id)
        evaluation.add(place, found.record.turns, contents)


def _add_dataset(evaluation: Evaluation, dataset: Path) -> None:
    for shard in read_manifest(dataset).shards:
        path = dataset / shard.name
        try:
            with path.open("rb") as file:
                for members in TarReader(file).samples():
                    _add_sample(evaluation, dataset, members)
        except (OSError, BrokenTarError) as error:
            raise ShardError(
                f"{path}: cannot be read: {error}; see neva-prep verify {dataset}"
            ) from error


def _add_sample(evaluation: Evaluation, dataset: Path, members: list[Member]) -> None:
    try:
        row: Any = load_json(members[-1].data)
        turns = [Turn(role=turn["from"], value=turn["value"]) for turn in row["conversations"]]
        place = Place(source=dataset.name, index=int(members[0].key), id=row["id"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"--exclude {dataset}: sample {members[0].key} is no conversation as convert writes "
            "them; give the source of the dataset instead"
        ) from error
    evaluation.add(place, turns, [member.data for member in members[:-1]])


def _questions(turns: Iterable[Turn]) -> list[str]:
    """Human turns as they are compared: without placeholders, case and spacing."""
    asked = [turn.value for turn in turns if turn.role == "human"]
    plain = [_SPACE.sub(" ", text.replace(IMAGE_PLACEHOLDER, " ")).strip() for text in asked]
    return [text.casefold() for text in plain if text]


def _hash(text: str) -> bytes:
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))
