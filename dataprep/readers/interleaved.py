"""Documents with images between their texts: OBELICS' lists, and MMC4's sentences with matches.

Such a record becomes `{"conversations": [{"from": "text", "value": ...}], "image": [paths]}`, in
which a piece is a text, or the `<image>` of one image. All other fields pass through untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec

from ...errors import RecordError
from ...loaders.format import IMAGE_PLACEHOLDER
from ...loaders.loose_record import load_json
from ...loaders.members import DOCUMENT_ROLE
from ...loaders.turns import Turn
from .record import Read, Record

_Row = TypeVar("_Row", bound=msgspec.Struct)


class _Obelics(msgspec.Struct):
    texts: list[str | None]
    images: list[str | None]
    id: str | int | float | None = None


class _Match(msgspec.Struct):
    image_name: str
    matched_text_index: int


class _Mmc4(msgspec.Struct):
    text_list: list[str]
    image_info: list[_Match]
    similarity_matrix: list[msgspec.Raw] | None = None
    id: str | int | float | None = None


class _Pieces(NamedTuple):
    """A document in its order."""

    values: list[str]
    """Texts, and the placeholder of each image."""
    images: list[str]


_decode_obelics = msgspec.json.Decoder(_Obelics).decode
_decode_mmc4 = msgspec.json.Decoder(_Mmc4).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_numbers = msgspec.json.Decoder(list[float]).decode
_encode = msgspec.json.Encoder().encode


def is_obelics(record: dict[str, Any]) -> bool:
    """Whether a record has `texts` and `images` side by side, with null where the other stands."""
    texts, images = record.get("texts"), record.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or "conversations" in record:
        return False
    # Of the_cauldron's rows the texts are questions with their answers.
    return not any(isinstance(text, dict) for text in texts)


def is_mmc4(record: dict[str, Any]) -> bool:
    """Whether a record has sentences, and images that are matched to them."""
    return isinstance(record.get("text_list"), list) and "image_info" in record


def read_obelics(raw: bytes) -> Read:
    """Read `{"texts": [text or null], "images": [path or null]}`.

    Raises:
        RecordError: with the reason; the message lacks the place.
    """
    row = _decode(raw, _Obelics)
    if len(row.texts) != len(row.images):
        _reject(f"has {len(row.texts)} 'texts' and {len(row.images)} 'images'")
    pieces = _Pieces([], [])
    for place, (text, image) in enumerate(zip(row.texts, row.images, strict=True)):
        if text is not None and image is not None:
            _reject(f"has a text and an image at place {place}, where one of them must be null")
        if text is not None:
            _add_text(pieces, place, text)
        if image is not None:
            _add_image(pieces, image)
    return _as_document(raw, row.id, pieces, {"texts": None, "images": None})


def read_mmc4(raw: bytes) -> Read:
    """Read `{"text_list", "image_info": [{"image_name", "matched_text_index"}]}`.

    An image stands before the text that it matches, as OpenFlamingo has it. The rows of
    `similarity_matrix` follow the order in which the images then stand.

    Raises:
        RecordError: with the reason; the message lacks the place.
    """
    row = _decode(raw, _Mmc4)
    count = len(row.text_list)
    for number, image in enumerate(row.image_info):
        if not 0 <= image.matched_text_index < count:
            _reject(
                f"matches image {number} to text {image.matched_text_index}, and its texts are 0 "
                f"to {count - 1}"
            )
    order = sorted(
        range(len(row.image_info)), key=lambda number: row.image_info[number].matched_text_index
    )
    pieces, shown = _Pieces([], []), iter(order)
    following = next(shown, None)
    for place, text in enumerate(row.text_list):
        while following is not None and row.image_info[following].matched_text_index == place:
            _add_image(pieces, row.image_info[following].image_name)
            following = next(shown, None)
        _add_text(pieces, place, text)
    changed: dict[str, Any] = {"text_list": None}
    if row.similarity_matrix is not None:
        _check_matrix(row.similarity_matrix, len(row.image_info), count)
        changed["similarity_matrix"] = [row.similarity_matrix[number] for number in order]
    return _as_document(raw, row.id, pieces, changed)


def _check_matrix(matrix: Sequence[msgspec.Raw], images: int, texts: int) -> None:
    try:
        sizes = {len(_decode_numbers(row)) for row in matrix}
    except msgspec.DecodeError:
        _reject("has a 'similarity_matrix' of something else than numbers")
    if len(matrix) != images or sizes - {texts}:
        _reject(
            f"has a 'similarity_matrix' that is not {images} x {texts}, a row for each image and a "
            "number for each text"
        )


def _add_text(pieces: _Pieces, place: int, text: str) -> None:
    if text == IMAGE_PLACEHOLDER:
        _reject(f"text {place} is a literal '{IMAGE_PLACEHOLDER}'", "literal_placeholder")
    pieces.values.append(text)


def _add_image(pieces: _Pieces, path: str) -> None:
    pieces.values.append(IMAGE_PLACEHOLDER)
    pieces.images.append(path)


def _as_document(
    raw: bytes, identity: str | int | float | None, pieces: _Pieces, changed: dict[str, Any]
) -> Read:
    """A document in the form that conversations have; a changed field that is None goes."""
    kept: dict[str, Any] = {**_decode_fields(raw), **changed}
    for name in ("conversations", "image"):
        if name in kept:
            _reject(f"has '{name}' beside its texts and images", "field_conflict")
    turns = [Turn(role=DOCUMENT_ROLE, value=value) for value in pieces.values]
    kept |= {"conversations": turns, "image": pieces.images}
    content = _encode({name: value for name, value in kept.items() if value is not None})
    return Read(content, Record(id=identity, turns=turns, images=tuple(pieces.images)))


def _decode(raw: bytes, kind: type[_Row]) -> _Row:
    decode: Any = _decode_obelics if kind is _Obelics else _decode_mmc4
    try:
        raw.decode()
        row: _Row = decode(raw)
        return row
    except UnicodeDecodeError as error:
        _reject(f"byte {error.start} of the record is not UTF-8", "invalid_utf8")
    except (ValueError, RecursionError) as error:
        try:
            value = load_json(raw)
        except (ValueError, RecursionError) as cause:
            _reject(f"is not valid JSON: {cause}", "invalid_json")
        if not isinstance(value, dict):
            _reject("is no object", "not_an_object")
        _reject(f"is no {kind.__name__[1:]} document: {error}")


def _reject(message: str, reason: str = "bad_document") -> NoReturn:
    raise RecordError(message, reason=reason)
