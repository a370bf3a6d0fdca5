"""Takes the screenshots of docs/images: the viewer and the HTML file, in a real browser.

make screenshots
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "images"
WIDE, NARROW = (1280, 800), (390, 800)
SHIFT = "sample/0?tab=tokens&shift=1"


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One page as it is shown."""

    path: str
    """Behind the viewer's address; of the file its part."""
    size: tuple[int, int] = WIDE
    scheme: str = "light"
    hover: str = ""
    """What to point at."""
    scroll: str = ""
    """What to bring to the top."""


SHOTS: dict[str, Sequence[Shot]] = {
    "grid": [Shot(path="")],
    "sample": [Shot(path="sample/8")],
    "tokens": [Shot(path=SHIFT, hover=".stream .tr .k >> nth=4")],
    "pack": [Shot(path="batch")],
    "batch": [Shot(path="batch?tab=batch", scroll=".row h4")],
    "quarantine": [Shot(path="quarantine?reason=empty_value")],
    "dark": [Shot(path="?q=star&images=1", scheme="dark")],
    "narrow": [
        Shot(path="", size=NARROW),
        Shot(path="sample/8", size=NARROW, scheme="dark"),
        Shot(path="sample/8?tab=tokens", size=NARROW),
        Shot(path="quarantine?reason=no_answer", size=NARROW, scheme="dark"),
    ],
}


def take(browser: Any, address: str, shot: Shot) -> Image.Image:
    """A picture of a page."""
    width, height = shot.size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=shot.scheme
    )
    page = context.new_page()
    page.goto(address + shot.path, wait_until="networkidle")
    if shot.hover:
        page.locator(shot.hover).hover()
    if shot.scroll:
        page.locator(shot.scroll).first.evaluate("one => one.scrollIntoView()")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return picture


def side_by_side(pictures: Sequence[Image.Image], gap: int = 24) -> Image.Image:
    """Pictures in a row."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    whole = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    at = 0
    for picture in pictures:
        whole.paste(picture, (at, 0))
        at += picture.width + gap
    return whole


def save(picture: Image.Image, name: str) -> None:
    """Write docs/images/NAME.png."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.png"
    # A palette that is fitted to the picture: a third of the size, and the eye sees no difference.
    picture.quantize(256, kmeans=5, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {picture.width} x {picture.height}  {path.stat().st_size:,}")


def main() -> None:
    """Draw the demo, convert it, show it, take the pictures."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser_help import chromium
    from loader_help import tokenizer
    from viewer_help import wait_for

    from neva_prep.dataprep.convert import convert
    from neva_prep.dataprep.demo import draw_demo
    from neva_prep.dataprep.look.open import open_looked
    from neva_prep.dataprep.look.page import write_page
    from neva_prep.dataprep.look.settings import LookSettings
    from neva_prep.dataprep.options import ConvertOptions
    from neva_prep.dataprep.viewer.serve import running
    from neva_prep.templates.load import pick_template

    if shutil.which("chromium") is None:
        raise SystemExit("no chromium here; apt-get install chromium fonts-noto-core")
    with tempfile.TemporaryDirectory() as folder:
        source = draw_demo(Path(folder), pictures=300)
        shards = Path(folder, "shards")
        options = ConvertOptions(split={"train": 0.9, "val": 0.1})
        convert(source.source, source.images, shards, options)
        looked = open_looked(shards)
        settings = LookSettings(
            tokenizer=tokenizer(),
            template=pick_template("v1", tokenizer()),
            packed_sequence_size=4096,
        )
        file = Path(folder, "look.html")
        write_page(looked, file, count=20, settings=settings, batches=1)
        with chromium() as browser, running(looked, settings=settings) as address:
            wait_for(address)
            for name, shots in SHOTS.items():
                save(side_by_side([take(browser, address, shot) for shot in shots]), name)
            save(take(browser, file.as_uri(), Shot(path="#s1")), "file")


if __name__ == "__main__":
    main()
