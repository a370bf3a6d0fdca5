"""A conversation of any form, and how it is written in LLaVA's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from ...errors import RecordError
from ...loaders.loose_record import load_record
from ...loaders.record_fields import IMAGES
from ...loaders.refuse import refuse_other_media
from ..stores.embedded import EmbeddedImage
from .llava import read_llava
from .media import Picture, picture_of
from .placeholders import Mark, place_images
from .raw_json import raw_fields
from .record import Read, Record

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Message(NamedTuple):
    """One message, its role already by LLaVA's name."""

    role: str
    pieces: list[str | Mark]
    """Its text, and images that are parts of their own."""
    rest: Mapping[str, bytes] = {}
    """JSON of every field that is neither role nor text, by its name."""


class Talk(NamedTuple):
    """What a form's reader found in a record."""

    messages: list[Message]
    taken: tuple[str, ...]
    """Fields that the messages came from; the first tells where the conversation is to stand."""
    image_fields: tuple[str, ...] = IMAGES
    adds_places: bool = False
    """Whether images without any place in the text stand before the first question."""
    repairs: tuple[str, ...] = ()
    """That adding places counts as."""


FindTalk = Callable[[dict[str, Any], dict[str, bytes]], Talk]
"""Finds the conversation in a record, given parsed and as the JSON of its fields.

Raises:
    RecordError: with a `reason` of reasons.REJECTIONS.
"""


def read_talk(raw: bytes, find: FindTalk) -> Read:
    """Read a record of another form than LLaVA's.

    All fields that are not of the conversation keep their very text.

    Raises:
        RecordError: with a `reason` of reasons.REJECTIONS; the message lacks the place.
    """
    record = _load(raw)
    if not isinstance(record, dict):
        raise RecordError("is not an object", reason="not_an_object")
    refuse_other_media(record)
    try:
        found = raw_fields(raw)
        return _written(raw, found, record, find(record, found))
    except RecursionError as error:
        raise RecordError("is nested too deeply", reason="invalid_json") from error
    except UnicodeEncodeError as error:
        raise RecordError("holds half of a surrogate pair", reason="lone_surrogate") from error


def _load(raw: bytes) -> Any:
    try:
        raw.decode()
        return _decode(raw)
    except (ValueError, RecursionError):
        return load_record(raw)


def _written(raw: bytes, found: dict[str, bytes], record: dict[str, Any], talk: Talk) -> Read:
    field, listed = _listed(record, talk.image_fields)
    _refuse_misplaced(talk.messages)
    asked = [number for number, message in enumerate(talk.messages) if message.role == "human"]
    placed = place_images([talk.messages[number].pieces for number in asked], listed)
    values = ["".join(map(str, message.pieces)) for message in talk.messages]
    for number, value in zip(asked, placed.values, strict=True):
        values[number] = value
    repairs: tuple[str, ...] = ("placeholder_renamed",) if placed.is_renamed else ()
    images = placed.images
    if talk.adds_places and asked and images and not any("<image>" in v for v in placed.values):
        values[asked[0]] = "<image>\n" * len(images) + values[asked[0]]
        repairs += talk.repairs
    paths = [picture.path for picture in images]
    content = _content(found, record, talk, values, field, paths)
    read = read_llava(content)
    if not repairs and talk.taken == ("conversations",) and _is_same(raw, read):
        content = raw
    if any(picture.content is not None for picture in images):
        read = msgspec.structs.replace(read, images=tuple(map(_name, images)))
    return Read(content, read, repairs)


def _name(picture: Picture) -> str:
    if picture.content is None:
        return picture.path
    return EmbeddedImage(picture.path, picture.content)


def _is_same(raw: bytes, read: Record) -> bool:
    """Whether a record is in LLaVA's form already."""
    try:
        return read_llava(raw) == read
    except RecordError:
        return False


def _content(
    found: dict[str, bytes],
    record: dict[str, Any],
    talk: Talk,
    values: list[str],
    image_field: str,
    paths: list[str],
) -> bytes:
    """The record in LLaVA's form; what is not of the conversation keeps its very text."""
    spare = {"conversations", "images"} - {*talk.taken, image_field}
    clash = next((name for name in spare if record.get(name)), None)
    if clash is not None:
        raise RecordError(
            f"has a field '{clash}' beside '{talk.taken[0]}'", reason="field_conflict"
        )
    conversation, images = _conversation(talk.messages, values), _encode(paths)
    kept: dict[str, bytes] = {}
    for name, value in found.items():
        if name == talk.taken[0]:
            kept["conversations"] = conversation
        elif name == image_field and not _says_images(name, record[name], paths):
            kept |= {"images": images} if paths else {}
        elif name not in talk.taken and name not in spare:
            kept[name] = value
    if paths and not image_field:
        kept["images"] = images
    return _object(kept)


def _says_images(name: str, given: Any, paths: list[str]) -> bool:
    """Whether a field says which the images are as LLaVA's form does; of none a null says so."""
    if name not in ("image", "images"):
        return False
    return given == paths or [given] == paths if paths else given in (None, [])


def _conversation(messages: list[Message], values: list[str]) -> bytes:
    if not any(message.rest for message in messages):
        pairs = zip(messages, values, strict=True)
        return _encode([{"from": message.role, "value": value} for message, value in pairs])
    turns = (
        _object({"from": _encode(message.role), "value": _encode(value), **message.rest})
        for message, value in zip(messages, values, strict=True)
    )
    return b"[" + b", ".join(turns) + b"]"


def _object(fields: Mapping[str, bytes]) -> bytes:
    return b"{" + b", ".join(b"%b: %b" % (_encode(n), value) for n, value in fields.items()) + b"}"


def _listed(record: dict[str, Any], names: tuple[str, ...]) -> tuple[str, list[Picture]]:
    """The images beside a conversation, and the field that holds them."""
    present = [name for name in names if record.get(name) not in (None, [], "")]
    if len(present) > 1:
        raise RecordError(f"has both '{present[0]}' and '{present[1]}'", reason="field_conflict")
    if not present:
        return next((name for name in names if name in record), ""), []
    field = present[0]
    value = record[field]
    given = value if isinstance(value, list) else [value]
    return field, [p for v in given if (p := picture_of(v, f"'{field}'")) is not None]


def _refuse_misplaced(messages: list[Message]) -> None:
    for number, message in enumerate(messages):
        if message.role != "human" and any(isinstance(piece, Mark) for piece in message.pieces):
            raise RecordError(
                f"turn {number} ({message.role}) holds an image", reason="image_in_answer"
            )
