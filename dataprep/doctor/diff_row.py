"""A row of a source or of a converted dataset, in terms in which both can be compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec
import xxhash

from ...errors import ImageError
from ...loaders.image_header import PIXEL_LIMIT, read_header
from ...loaders.loose_record import load_json
from ...loaders.turns import Turn
from ..readers.record_forms import CONVERSATIONS


class Image(NamedTuple):
    """An image of a row."""

    path: str
    """As the source record gave it."""
    data: bytes | None
    """The file; None where it is missing."""

    @property
    def hash(self) -> bytes:
        """Of the file's bytes; of its path where it is missing."""
        if self.data is None:
            return b"missing" + xxhash.xxh3_128_digest(_bytes(self.path))
        return xxhash.xxh3_128_digest(self.data)

    def describe(self) -> str:
        """What it is, in a few words."""
        if self.data is None:
            return "missing"
        size = f"{len(self.data):,} bytes, {self.hash.hex()[:12]}"
        try:
            header = read_header(self.data, pixel_limit=PIXEL_LIMIT)
        except ImageError as error:
            return f"{error.reason}, {size}"
        return f"{header.width} x {header.height} {header.extension}, {size}"


class Named(IntEnum):
    """How far the id of a row tells which row it is."""

    NOT = 0
    """It has none."""
    BY_CONVERT = 1
    """In a dataset, the key: it may have been given, and says no more than none."""
    AS_KEY = 2
    """In a source, what convert would give: it is known by it, but may also have none."""
    ITSELF = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a source, or a sample of a dataset."""

    index: int
    id: str | None
    split: str | None
    turns: list[Turn]
    images: list[Image]
    fields: dict[str, Any]
    """What else it has, and the paths of its images under `image`."""
    named: Named = Named.ITSELF
    """NOT where it has no id."""


def pack(value: Any) -> bytes:
    """Bytes that are equal for equal values, whatever the order of fields."""
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (ValueError, TypeError, OverflowError, RecursionError):
        # Half a surrogate pair, say.
        return json.dumps(value, sort_keys=True).encode()


def row_of(
    index: int,
    key: str,
    split: str | None,
    value: dict[str, Any],
    images: list[Image],
    as_key: Named,
) -> Row:
    """A row of what was read of it.

    Args:
        index: of the record or the sample.
        key: that convert gives it.
        split: that it is in.
        value: the JSON object; what is told by itself is taken out of it.
        images: of the row.
        as_key: how far an id tells which row it is that is the key.
    """
    found = value.get("id")
    identity = None
    if isinstance(found, str | int | float) and not isinstance(found, bool):
        identity = str(value.pop("id"))
    elif found is None:
        value.pop("id", None)
    turns: list[Turn] = []
    for name in CONVERSATIONS:
        if isinstance(value.get(name), list):
            said = [_turn(turn) for turn in value.pop(name)]
            turns = [turn for turn, _ in said]
            if any(rest for _, rest in said):
                value[name] = [rest for _, rest in said]
            break
    if images:
        value["image"] = [image.path for image in images]
    named = as_key if identity == key else Named.ITSELF
    named = Named.NOT if identity is None else named
    return Row(index, identity, split, turns, images, value, named)


def _turn(turn: Any) -> tuple[Turn, dict[str, Any]]:
    """A turn, and what it has beside role and text."""
    if not isinstance(turn, dict):
        return Turn(role="", value=_text(turn)), {}
    role, value = (
        next((name for name in names if name in turn), "")
        for names in (("from", "role"), ("value", "content"))
    )
    rest = {name: found for name, found in turn.items() if name not in (role, value)}
    return Turn(role=_text(turn.get(role, "")), value=_text(turn.get(value, ""))), rest


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def take_paths(value: dict[str, Any]) -> list[str]:
    """Take the image paths out of a record."""
    for name in ("image", "images"):
        found = value.get(name)
        paths = [] if found is None else found if isinstance(found, list) else [found]
        if all(isinstance(path, str) for path in paths):
            value.pop(name, None)
            if paths:
                return paths
    return []


def parse(raw: bytes) -> Any:
    """The value of a JSON text; None where it is none."""
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        pass
    try:
        return load_json(raw)
    except (ValueError, RecursionError):
        return None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
