"""Views as HTML: the templates of `pages/`, which the file and the web viewer share.

Every template escapes what it is given; a name that is not given is an error.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from PIL import Image

from ...loaders.format import IMAGE_PLACEHOLDER
from ..plain_text import plain_text
from .excerpt import cut, mark_record, name_of
from .view import PackView, RowView, TokenView

PAGES = "pages"
BAR_WIDTH = 1000.0
"""Of a pack's picture, in its own units."""
_PLANE_ENDS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_NO_CHARACTER = re.compile(f"[\ufdd0-\ufdef{_PLANE_ENDS}]")
_LINE_MARKS = {ord("\n"): "⏎", ord("\t"): "⇥"}
RULE_CLASSES = {
    "bos": "r-bos",
    "image": "r-image",
    "content": "r-content",
    "answer": "r-answer",
    "marked by the template": "r-marked",
    "template text": "r-template",
    "padding": "r-padding",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of something long is shown at once."""

    characters: int = 2_400
    """Of a message or a record; four times as many on request."""
    tokens: int = 3_000
    edge: int = 336
    """Of a picture: its longer edge, in pixels."""

    def half(self) -> Limits:
        """Half of everything; the picture's edge shrinks so that its area halves."""
        return Limits(
            characters=self.characters // 2, tokens=self.tokens // 2, edge=int(self.edge * 0.7)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Tokens in a row that are trained, or not, for one reason."""

    rule: str
    trained: bool
    tokens: tuple[TokenView, ...]

    @property
    def css(self) -> str:
        """Class of the rule."""
        return RULE_CLASSES.get(self.rule, "r-template")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Tokens of one message, and the template's text behind it."""

    turn: int | None
    first: bool
    """Whether a sample begins here."""
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A rectangle in the picture of a pack."""

    x: float
    width: float
    css: str
    title: str


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, with the filters that they use."""
    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(read_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "visible": visible,
        "name": name_of,
        "words": words_with_images,
        "piece": lambda piece: visible(line_marks(piece)),
        "marks": line_marks,
        "cut": cut,
        "number": "{:,}".format,
        "size": size,
        "percent": "{:.1%}".format,
        "plain_json": functools.partial(json.dumps, ensure_ascii=False, default=str),
    }
    env.globals |= {
        "mark_record": mark_record,
        "token_blocks": token_blocks,
        "rules_of": rules_of,
        "bars_of": bars_of,
        "number_rows": number_rows,
    }
    return env


def render(template: str, /, **context: Any) -> str:
    """A template of `pages/` with its values."""
    return environment().get_template(template).render(**context)


@functools.cache
def read_asset(name: str) -> str:
    """A file of `pages/`."""
    return resources.files(__package__).joinpath(PAGES, name).read_text("utf-8")


def content_hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline style or script by."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def visible(text: str) -> Markup:
    r"""Text of a stranger as HTML: escaped, control and bidirectional characters made visible.

    Example:
        >>> visible("<b>\u202e")
        Markup('&lt;b&gt;<span class="esc">\\u202e</span>')
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return escape(text)
    parts = []
    for unsafe, characters in groupby(text, key=_is_unsafe):
        part = escape(_plain("".join(characters)))
        parts.append(Markup('<span class="esc">{}</span>').format(part) if unsafe else part)
    return Markup("").join(parts)


def _plain(value: Any) -> Any:
    """What a template prints, without characters that HTML forbids or that steer its reader."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if value.isascii() and value.isprintable():
        return value
    return _NO_CHARACTER.sub(lambda found: f"\\U{ord(found[0]):08x}", plain_text(value))


def _is_unsafe(character: str) -> bool:
    return bool(_plain(character) != character)


def words_with_images(text: str) -> Markup:
    """A message as HTML, with its image placeholders set apart."""
    mark = Markup('<span class="slot">{}</span>').format(IMAGE_PLACEHOLDER)
    return mark.join(visible(part) for part in text.split(IMAGE_PLACEHOLDER))


def line_marks(piece: str) -> str:
    r"""A token's spelling on one line: line breaks and tabs as signs.

    Example:
        >>> line_marks("a\n")
        'a⏎'
    """
    return piece.translate(_LINE_MARKS)


def size(num_bytes: int) -> str:
    """A number of bytes for reading.

    Example:
        >>> size(800), size(12_345), size(3_500_000)
        ('800 B', '12 kB', '3.5 MB')
    """
    if num_bytes < 1000:
        return f"{num_bytes} B"
    if num_bytes < 1_000_000:
        return f"{num_bytes / 1000:.0f} kB"
    return f"{num_bytes / 1_000_000:.1f} MB"


def token_blocks(tokens: Sequence[TokenView]) -> list[Block]:
    """Tokens as they are read: a block for each message, in it a run for each reason."""
    blocks: list[Block] = []
    start = 0
    for place in range(1, len(tokens) + 1):
        if place < len(tokens) and not _opens(tokens[place], tokens[place - 1]):
            continue
        part = tokens[start:place]
        runs = groupby(part, key=lambda token: (token.rule, token.trained))
        blocks.append(
            Block(
                turn=next((token.turn for token in part if token.turn is not None), None),
                first=_starts_sample(part[0]),
                runs=tuple(
                    Run(rule=rule, trained=trained, tokens=tuple(run))
                    for (rule, trained), run in runs
                ),
            )
        )
        start = place
    return blocks


def _opens(token: TokenView, before: TokenView) -> bool:
    if token.rule == "padding" or before.rule == "padding":
        return token.rule != before.rule
    return token.turn != before.turn or _starts_sample(token)


def _starts_sample(token: TokenView) -> bool:
    return token.position_id == 0 and token.rule != "padding"


def rules_of(tokens: Sequence[TokenView]) -> list[tuple[str, str, bool, int]]:
    """Each reason with its class, whether it is trained, and its number of tokens."""
    counts: dict[tuple[str, bool], int] = {}
    for token in tokens:
        counts[token.rule, token.trained] = counts.get((token.rule, token.trained), 0) + 1
    return [
        (rule, RULE_CLASSES.get(rule, "r-template"), trained, count)
        for (rule, trained), count in counts.items()
    ]


def bars_of(pack: PackView) -> list[Bar]:
    """The rectangles of a row: samples, in each what is trained, and padding."""
    bars: list[Bar] = []

    def add(start: float, end: float, css: str, title: str) -> None:
        if end > start:
            scale = BAR_WIDTH / max(pack.capacity, 1)
            bars.append(Bar(x=start * scale, width=(end - start) * scale, css=css, title=title))

    end = 0
    for number, segment in enumerate(pack.segments):
        length = segment.end - segment.start
        title = (
            f"{plain_text(segment.key)}: positions {segment.start:,} to {segment.end - 1:,}, "
            f"{length:,} in all, {segment.num_trained:,} trained"
        )
        add(segment.start, segment.end, f"bar-sample c{number % 6}", title)
        add(segment.start, segment.start + segment.num_trained, "bar-trained", title)
        padding = (
            f"{segment.padded_end - segment.end:,} of padding behind {plain_text(segment.key)}"
        )
        add(segment.end, segment.padded_end, "bar-padding", padding)
        end = segment.padded_end
    add(end, pack.capacity, "bar-padding", f"{pack.capacity - end:,} of padding")
    return bars


def number_rows(row: RowView, start: int, stop: int) -> list[tuple[Any, ...]]:
    """A row's numbers position by position, as the trainer gets them."""
    return [
        (token, row.loss_mask[place], row.attention_mask[place])
        for place, token in enumerate(row.tokens[start:stop], start=start)
    ]


def picture_bytes(pixels: npt.NDArray[np.uint8] | Image.Image, edge: int) -> bytes:
    """A small WebP of a picture, no edge of it longer than `edge`."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if max(picture.size) > edge:
        picture = picture.copy()
        picture.thumbnail((edge, edge))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80, method=2)
    return file.getvalue()
