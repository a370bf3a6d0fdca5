"""The inspector as one HTML file: opens from disk, asks the network for nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from ...errors import ConfigError, ImageError
from ...templates.out_file import check_out_file, write_out_file
from .html import Limits, content_hash, picture_bytes, read_asset, render
from .pictures import thumbnail
from .stops import Flow, Stops
from .view import BatchView, ImageView

if TYPE_CHECKING:
    from .open import Looked
    from .settings import LookSettings

MAX_BYTES = 9_000_000
"""Of the file, as far as halving what is long can keep it."""
BATCH_WEIGHT = 4
"""A batch may take as much of the file as so many samples."""
BEGINS = (
    b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    b'<meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; '
    b"img-src data:; style-src &#39;sha256-"
)
"""Of the file, and of no other."""
SMALLEST_EDGE = 48
"""Of a picture; nothing is cut shorter than that."""
UNREADABLE = (
    "data:image/svg+xml;base64,"
    + base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="3"/>').decode()
)


class InlinePictures:
    """Pictures as data within the file."""

    def original(self, view: ImageView, number: int, edge: int) -> str:
        """The source's own, small."""
        try:
            return _data_url("jpeg", thumbnail(view.data or b"", edge))
        except ImageError:
            # Its name, size and format are shown all the same; what is wrong with it, too.
            return UNREADABLE

    def tile(self, pixels: npt.NDArray[np.uint8], number: int, tile: int, edge: int) -> str:
        """What the model gets."""
        return _data_url("webp", picture_bytes(pixels, edge))

    def media(self, pixels: npt.NDArray[np.uint8], number: int, edge: int) -> str:
        """A tile of a batch."""
        return _data_url("webp", picture_bytes(pixels, edge))


def write_page(
    looked: Looked,
    out: Path,
    *,
    count: int,
    start: int = 0,
    settings: LookSettings | None = None,
    batches: int = 0,
) -> None:
    """Write records, samples, tokens, packs and batches as one HTML file.

    What is long is cut, and the file says by how much; a file of 50 samples stays under 10 MB.

    Args:
        looked: what to show.
        out: the file; an earlier page is replaced, and nothing else.
        count: most records to show, from `start`.
        start: position of the first.
        settings: what training would be given; without a tokenizer there are no tokens and no
            batches.
        batches: how many to show, as the data module yields them.

    Raises:
        ConfigError: there is no record at `start`, batches are asked for without a tokenizer, or
            the file may not be written.
        NevaPrepError: what is looked at cannot be read.
    """
    check_page_file(out, looked.path)
    if not 0 <= start < len(looked):
        holds = f"it has {len(looked)}" if len(looked) else "it holds none"
        raise ConfigError(f"{looked.path}: has no record {start}; {holds}")
    flow = Flow(looked, settings)
    numbers = range(start, min(start + count, len(looked)))
    facts = [("showing", f"{len(numbers):,} of {len(looked):,}")]
    if looked.split is not None:
        facts.append(("split", looked.split))
    text = render_page(
        looked.path.name,
        facts,
        map(flow.stops, numbers),
        flow.batches(range(batches)) if batches else (),
        weight=len(numbers) + BATCH_WEIGHT * batches,
    )
    write_out_file("--html", out, text.encode())


def check_page_file(out: Path, looked_at: Path) -> None:
    """Refuse a file that would take the place of anything but an earlier page.

    Raises:
        ConfigError: it would.
    """
    check_out_file("--html", out, given=[looked_at], begins=BEGINS)


def render_page(
    title: str,
    facts: Sequence[tuple[str, str]],
    records: Iterable[Stops],
    batches: Iterable[BatchView] = (),
    *,
    weight: int,
    max_bytes: int = MAX_BYTES,
) -> str:
    """The file's text.

    Args:
        title: of the page.
        facts: named values beside it.
        records: with what became of each.
        batches: what the trainer gets.
        weight: number of records, and BATCH_WEIGHT for each batch.
        max_bytes: of the file.
    """
    css = Markup(read_asset("look.css") + read_asset("page.css"))
    script = Markup(read_asset("look.js"))
    room = _Room(max_bytes - len(css) - len(script), weight)
    articles = [
        _Article(
            anchor=f"s{stops.index}",
            number=stops.index,
            name=stops.name,
            is_broken=stops.is_broken,
            html=room.fit(1, "entry.html", stops=stops),
        )
        for stops in records
    ] + [
        _Article(
            anchor=f"b{number}",
            number=view.step,
            name="batch",
            is_broken=False,
            html=room.fit(BATCH_WEIGHT, "batch.html", view=view, number=number),
        )
        for number, view in enumerate(batches)
    ]
    policy = (
        f"default-src 'none'; img-src data:; style-src {content_hash(css)}; "
        f"script-src {content_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return render(
        "page.html",
        title=title,
        facts=facts,
        policy=policy,
        css=css,
        script=script,
        articles=articles,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Article:
    """A part of the page, and its line in the list of contents."""

    anchor: str
    number: int
    name: str
    is_broken: bool
    html: Markup


class _Room:
    """Bytes that are left, and how many parts are to share them."""

    def __init__(self, num_bytes: int, weight: int) -> None:
        self._bytes, self._weight = num_bytes, weight

    def fit(self, weight: int, template: str, **views: Any) -> Markup:
        """A part of the page, cut shorter and shorter until its share of the room holds it."""
        share = self._bytes * weight / max(self._weight, weight)
        limits = Limits()
        while True:
            text = render(template, limits=limits, pictures=InlinePictures(), **views)
            taken = len(text.encode())
            if taken <= share or limits.edge <= SMALLEST_EDGE:
                break
            limits = limits.half()
        self._bytes -= taken
        self._weight -= weight
        return Markup(text)


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
