"""A conversation of any form, and how it is written in LLaVA's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ...errors import RecordError
from ..splice import fields
from ..stores.embedded import EmbeddedImage
from .llava import load_record, read_llava
from .media import Picture, picture_of
from .placeholders import Mark, place_images
from .record import Read, Record
from .refuse import refuse_other_media

IMAGES = (
    "image", "images", "image_path", "image_paths", "img", "img_path", "image_file", "image_files",
    "image_url", "image_urls", "file_name",
)  # fmt: skip
"""Fields beside a conversation that hold its images."""
_decode = msgspec.json.Decoder().decode


class Message(NamedTuple):
    """One message, its role already by LLaVA's name."""

    role: str
    pieces: list[str | Mark]
    """Its text, and images that are parts of their own."""
    rest: tuple[str, ...] = ()
    """JSON of every field that is neither role nor text, such as `"weight": 1.10`."""


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


FindTalk = Callable[[dict[str, Any], str], Talk]
"""Finds the conversation in a record, given parsed and as JSON.

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
        text = raw.decode()
        talk = find(record, text)
        return _written(raw, text, record, talk)
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


def _written(raw: bytes, text: str, record: dict[str, Any], talk: Talk) -> Read:
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
    content = _content(text, record, talk, values, field, paths).encode()
    read = read_llava(content)
    if not repairs and _is_same(raw, read):
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
    text: str,
    record: dict[str, Any],
    talk: Talk,
    values: list[str],
    image_field: str,
    paths: list[str],
) -> str:
    """The record in LLaVA's form; what is not of the conversation keeps its very text."""
    found = fields(text)
    spare = {"conversations", "images"} - {*talk.taken, image_field}
    clash = next((name for name in spare if name in found and record[name]), None)
    if clash is not None:
        raise RecordError(
            f"has a field '{clash}' beside '{talk.taken[0]}'", reason="field_conflict"
        )
    given = record.get(image_field)
    # Of no image a null or an empty list says as much.
    is_kept = image_field in ("image", "images") and given in (
        (paths, *paths) if len(paths) == 1 else (paths,) if paths else (None, [])
    )
    written = {
        "conversations": ", ".join(map(_turn, talk.messages, values)),
        "images": json.dumps(paths, ensure_ascii=False),
    }
    kept = []
    for name, field in found.items():
        if name == talk.taken[0]:
            kept.append(f'"conversations": [{written["conversations"]}]')
        elif name == image_field and not is_kept:
            kept += [f'"images": {written["images"]}'] if paths else []
        elif name not in talk.taken and name not in spare:
            kept.append(text[field.name.start : field.value.stop])
    if paths and not image_field:
        kept.append(f'"images": {written["images"]}')
    return "{" + ", ".join(kept) + "}"


def _turn(message: Message, value: str) -> str:
    quoted = (json.dumps(part, ensure_ascii=False) for part in (message.role, value))
    own = zip(("from", "value"), quoted, strict=True)
    return "{" + ", ".join([*(f'"{name}": {part}' for name, part in own), *message.rest]) + "}"


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
