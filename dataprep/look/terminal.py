"""A record and its sample on a terminal, or as plain lines where there is none.

Everything in them is untrusted: text is shown through `plain_text`, never as markup.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ...errors import ImageError
from ...loaders.decode import decode_image
from ...loaders.format import IMAGE_PLACEHOLDER
from ..plain_text import plain_text
from .excerpt import mark_record
from .pictures import MAX_PIXELS, Pixels
from .view import ImageView, Place, RecordView, SampleView, Turn

MAX_COLUMNS = 60
MAX_ROWS = 20
MAX_FIELD_CHARACTERS = 400
"""Of one further field of the record; the rest is counted, not shown."""
MAX_TEXT_CHARACTERS = 10_000
"""Of one turn; likewise."""
MAX_PARTS = 200
"""Turns, images or fields; likewise."""
MAX_DRAWN = 8
"""Pictures of one sample."""
_BROKEN = "bold red underline"
_EDGE = 400
"""Pixels; larger pictures are shrunk before they are drawn."""

_ROLE_STYLES = {"human": "bold cyan", "user": "bold cyan", "gpt": "bold green", "system": "bold"}
_ROLE_STYLES["assistant"] = _ROLE_STYLES["gpt"]


def show_record(record: RecordView, console: Console) -> None:
    """Print a record as it stands, what is wrong with it, and where."""
    names = f"  id {shorten(record.id)}, key {plain_text(record.key)}"
    say(console, Text.assemble((f"record {record.place.index:,}", "bold"), names))
    say(console, Text(_place(record.place), "dim"))
    for finding in record.findings:
        reason, message = plain_text(finding.reason), shorten(finding.message)
        say(console, Text.assemble((reason, "bold red"), (f"  {message}", "red")))
    say(console, Text(""))
    say(console, _marked(record), indent=2)


def show_sample(sample: SampleView, console: Console) -> None:
    """Print a sample: where it lies, its pictures, its conversation, its other fields.

    On a terminal the pictures are drawn: by its own graphics protocol where it has one, else in
    coloured half blocks, and in shades where colour is off. Anywhere else the output has no
    escape sequence, no wrapped line and no picture, only the line of facts about each image.
    """
    key = plain_text(sample.key)
    say(console, Text.assemble((f"sample {key}", "bold"), f"  id {shorten(sample.id)}"))
    counts = f"{len(sample.images)} images, {len(sample.turns)} turns"
    say(console, Text(f"{_place(sample.place, counts)}; position {sample.place.index:,}", "dim"))
    for number, image in enumerate(sample.images[:MAX_PARTS]):
        say(console, Text(""))
        _show_image(image, console, draw=number < MAX_DRAWN)
    _say_rest(console, len(sample.images), "images")
    for turn in sample.turns[:MAX_PARTS]:
        _show_turn(turn, console)
    _say_rest(console, len(sample.turns), "turns")
    _show_fields(sample.fields, console)


def say(console: Console, text: Text, *, indent: int = 0) -> None:
    """Print a text: wrapped on a terminal, elsewhere as whole lines for grep and diff."""
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent)), highlight=False)
        return
    for line in text.plain.split("\n"):
        console.print(Text(f"{' ' * indent}{line}".rstrip()), soft_wrap=True, highlight=False)


def shorten(text: str, limit: int = MAX_FIELD_CHARACTERS) -> str:
    """A stranger's text, harmless, cut with the number of characters that are left out."""
    if len(text) <= limit:
        return plain_text(text)
    return f"{plain_text(text[:limit])}... and {len(text) - limit:,} more characters"


def draw_side_by_side(pictures: Sequence[Image.Image], console: Console) -> None:
    """Draw pictures next to each other, where there is a terminal that can."""
    if not pictures or not console.is_terminal or console.is_dumb_terminal:
        return
    if len(pictures) == 1:
        _draw(pictures[0], console)
        return
    height = min(_EDGE, max(picture.height for picture in pictures))
    scaled = [
        picture.resize((max(1, round(picture.width * height / picture.height)), height))
        for picture in pictures
    ]
    gap = height // 16
    strip = Image.new("RGB", (sum(p.width + gap for p in scaled) - gap, height), "white")
    at = 0
    for picture in scaled:
        strip.paste(picture, (at, 0))
        at += picture.width + gap
    _draw(strip, console)


def pictures_of(tiles: Sequence[Pixels]) -> list[Image.Image]:
    """Tiles as pictures."""
    return [Image.fromarray(np.ascontiguousarray(tile)) for tile in tiles]


def _place(place: Place, counts: str = "") -> str:
    """Where it lies, in the words of its kind: a shard, or a line of a source."""
    where = place.shard or place.dataset
    parts = [plain_text(where)]
    if place.line is not None:
        parts.append(f"line {place.line:,}")
    if place.offset is not None:
        parts.append(f"byte {place.offset:,}")
    size = [] if place.num_bytes is None else [f"{place.num_bytes:,} bytes"]
    facts = ", ".join([*size, *([counts] if counts else [])])
    return f"{', '.join(parts)}: {facts}" if facts else ", ".join(parts)


def _marked(record: RecordView) -> Text:
    """The JSON of a record; brackets mark the broken place for those who see no colour."""
    text = Text()
    pieces = mark_record(record.text, record.findings, MAX_TEXT_CHARACTERS)
    for finding, group in groupby(pieces, key=lambda piece: piece.finding):
        text.append("⟦" if finding else "", _BROKEN)
        for piece in group:
            if piece.skipped:
                text.append(f" ... {piece.skipped:,} more characters ... ", "dim")
            else:
                text.append(plain_text(piece.text), _BROKEN if finding else "")
        text.append("⟧" if finding else "", _BROKEN)
    return text


def _show_image(image: ImageView, console: Console, *, draw: bool) -> None:
    error = image.error
    if draw and image.data is not None and error is None:
        try:
            picture = decode_image(image.data, max_pixels=MAX_PIXELS, name=image.name)
            picture.thumbnail((_EDGE, _EDGE))
            draw_side_by_side([picture, *pictures_of(image.tiles)], console)
        except ImageError as fault:
            error = str(fault)
    if error is not None:
        say(console, Text(shorten(error), "red"))
    at = "" if image.offset is None else f" at byte {image.offset:,}"
    source = "" if image.source == image.name else f", from {shorten(image.source)}"
    known = image.data is not None
    size = f"  {image.width} x {image.height}, {image.num_bytes:,} bytes{at}" if known else ""
    facts = f"{size}{source}"
    say(console, Text.assemble((shorten(image.name), "bold"), facts))
    if image.tiles:
        height, width, _ = image.tiles[0].shape
        tiles = "1 tile" if len(image.tiles) == 1 else f"{len(image.tiles)} tiles"
        say(console, Text(f"the model gets {tiles} of {width} x {height}", "dim"), indent=2)


def _draw(picture: Image.Image, console: Console) -> None:
    """Draw a picture within MAX_COLUMNS x MAX_ROWS cells."""
    # Imported here, since the import itself asks the terminal what it can do.
    from textual_image import renderable

    # It logs a traceback where a terminal does not answer, and then goes on with a usual size.
    logging.getLogger("textual_image").setLevel(logging.ERROR)
    width, height = picture.size
    # A cell is twice as high as it is wide.
    scale = min(min(MAX_COLUMNS, console.width) / width, 2 * MAX_ROWS / height)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale / 2))
    if console.no_color:
        kind: Any = renderable.UnicodeImage
    elif renderable.Image is renderable.UnicodeImage:
        kind = renderable.HalfcellImage
    else:
        kind = renderable.Image
    try:
        console.print(kind(picture, width=columns, height=rows))
    except ZeroDivisionError:
        # textual-image divides by the terminal's size, and some pseudo-terminals say 0 x 0.
        say(console, Text("(no picture: the terminal does not say how large it is)", "dim"))


def _show_turn(turn: Turn, console: Console) -> None:
    say(console, Text(""))
    say(console, Text(shorten(turn.role), _ROLE_STYLES.get(turn.role, "bold magenta")))
    text = Text(shorten(turn.text, MAX_TEXT_CHARACTERS))
    text.highlight_words([IMAGE_PLACEHOLDER], "bold yellow")
    say(console, text, indent=2)


def _show_fields(fields: dict[str, Any], console: Console) -> None:
    if not fields:
        return
    say(console, Text(""))
    say(console, Text("other fields", "bold"))
    for name, value in list(fields.items())[:MAX_PARTS]:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        say(console, Text(f"{shorten(name)}: {shorten(shown)}"), indent=2)
    _say_rest(console, len(fields), "fields")


def _say_rest(console: Console, count: int, what: str) -> None:
    if count > MAX_PARTS:
        say(console, Text(f"... and {count - MAX_PARTS:,} more {what}", "dim"))
