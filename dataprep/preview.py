"""What `neva-prep inspect` shows: a stored sample on the terminal, or as a dict.

Everything in a sample is untrusted: text is shown through `plain_text`, never as markup.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from PIL import Image
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ..errors import ImageError
from ..loaders.decode import decode_image
from ..loaders.format import IMAGE_PLACEHOLDER
from ..loaders.shard import StoredImage, StoredSample
from .plain_text import plain_text

SCHEMA_VERSION = 1
"""Of what `describe_sample` returns; raised when a key changes its meaning or goes."""
MAX_COLUMNS = 60
MAX_ROWS = 20
MAX_FIELD_CHARACTERS = 400
"""Of one further field of the record; the rest is counted, not shown."""

_ROLE_STYLES = {"human": "bold cyan", "user": "bold cyan", "gpt": "bold green", "system": "bold"}
_SHOWN_FIELDS = frozenset(("id", "conversations", "images"))


def show_sample(sample: StoredSample, console: Console) -> None:
    """Print a sample: where it lies, its pictures, its conversation, its other fields.

    On a terminal the pictures are drawn: by its own graphics protocol where it has one, else in
    coloured half blocks, and in shades where colour is off. Anywhere else the output has no
    escape sequence, no wrapped line and no picture, only the line of facts about each image.
    """
    turns = len(sample.messages)
    _print(console, Text(f"sample {sample.key}", "bold") + Text(f"  id {plain_text(sample.id)}"))
    _print(
        console,
        Text(
            f"{plain_text(sample.shard)}, byte {sample.offset:,}: {sample.bytes:,} bytes, "
            f"{len(sample.images)} images, {turns} turns; position {sample.index:,}",
            "dim",
        ),
    )
    for image in sample.images:
        _print(console, Text(""))
        _show_image(image, console)
    for turn in sample.messages:
        _show_turn(turn["from"], turn["value"], console)
    _show_other_fields(sample, console)


def describe_sample(sample: StoredSample) -> dict[str, Any]:
    """A sample without its pixels, for `--json`; texts are as the dataset has them."""
    return {
        "schema_version": SCHEMA_VERSION,
        "index": sample.index,
        "key": sample.key,
        "id": sample.id,
        "shard": sample.shard,
        "offset": sample.offset,
        "bytes": sample.bytes,
        "images": [
            {
                "name": image.entry.name,
                "source": image.entry.source,
                "width": image.entry.width,
                "height": image.entry.height,
                "bytes": len(image.data),
                "offset": image.offset,
            }
            for image in sample.images
        ],
        "record": sample.record,
    }


def _show_image(image: StoredImage, console: Console) -> None:
    entry = image.entry
    try:
        picture = decode_image(image.data, name=entry.name)
    except ImageError as error:
        _print(console, Text(plain_text(str(error)), "red"))
    else:
        if console.is_terminal and not console.is_dumb_terminal:
            _draw(picture, console)
    _print(
        console,
        Text(plain_text(entry.name), "bold")
        + Text(
            f"  {entry.width} x {entry.height}, {len(image.data):,} bytes at byte "
            f"{image.offset:,}, from {plain_text(entry.source)}"
        ),
    )


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
        _print(console, Text("(no picture: the terminal does not say how large it is)", "dim"))


def _show_turn(role: str, value: str, console: Console) -> None:
    _print(console, Text(""))
    _print(console, Text(plain_text(role), _ROLE_STYLES.get(role, "bold magenta")))
    text = Text(plain_text(value))
    text.highlight_words([IMAGE_PLACEHOLDER], "bold yellow")
    _print(console, text, indent=2)


def _show_other_fields(sample: StoredSample, console: Console) -> None:
    others = {name: value for name, value in sample.record.items() if name not in _SHOWN_FIELDS}
    if not others:
        return
    _print(console, Text(""))
    _print(console, Text("other fields", "bold"))
    for name, value in others.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rest = len(shown) - MAX_FIELD_CHARACTERS
        if rest > 0:
            shown = f"{shown[:MAX_FIELD_CHARACTERS]}... and {rest:,} more characters"
        _print(console, Text(f"{plain_text(name)}: {plain_text(shown)}"), indent=2)


def _print(console: Console, text: Text, *, indent: int = 0) -> None:
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent)), highlight=False)
        return
    # Without a terminal nothing is wrapped, so that grep and diff see whole lines.
    for line in text.plain.split("\n"):
        console.print(Text(f"{' ' * indent}{line}".rstrip()), soft_wrap=True, highlight=False)
