"""A corpus to measure on: photo-like JPEGs and conversations shaped like LLaVA's 665k mix.

Everything is made here, from a seed; what exists already is used again. By hand:

    python benchmarks/corpus.py --images 5000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).parent / "corpus"
"""Ignored by git."""
VERSION = 1
"""Of what is drawn and written below; another version is made anew."""
PROCESSES = 2

# (width, height) -> share, as photos from the web have them once scaled to 640 pixels.
SIZES = {
    (640, 480): 55,
    (480, 640): 18,
    (640, 427): 12,
    (640, 426): 5,
    (427, 640): 5,
    (500, 375): 3,
    (640, 640): 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One part of the mix of conversations. Ranges include both ends."""

    share: int
    """Thousands of records in the mix."""
    turns: tuple[int, int]
    """Questions, each with its answer."""
    asked: tuple[int, int]
    """Words of a question."""
    answered: tuple[int, int]
    """Words of an answer."""
    image: bool = True
    hint: str = ""
    """What follows the first question."""


SHORT = "\nAnswer the question using a single word or phrase."
MIX = (
    Kind(share=58, turns=(2, 5), asked=(7, 14), answered=(15, 50)),  # chats about a picture
    Kind(share=23, turns=(1, 1), asked=(7, 12), answered=(70, 130)),  # detailed descriptions
    Kind(share=77, turns=(1, 1), asked=(9, 18), answered=(80, 170)),  # reasoning
    Kind(share=41, turns=(1, 8), asked=(10, 60), answered=(40, 240), image=False),  # text alone
    Kind(share=155, turns=(3, 11), asked=(5, 10), answered=(1, 1), hint=SHORT),  # visual questions
    Kind(share=80, turns=(3, 6), asked=(4, 8), answered=(2, 8), hint=SHORT),  # book covers
    Kind(share=75, turns=(1, 2), asked=(20, 34), answered=(1, 1)),  # multiple choice
    Kind(share=22, turns=(1, 1), asked=(8, 12), answered=(6, 12)),  # captions
    Kind(share=134, turns=(3, 10), asked=(8, 14), answered=(3, 6)),  # regions
)
TEXT = """
    a able about above across after again against air all almost along also always among
    an and animal another any are area around arm as at away back ball bag bank beach bear
    because bed before behind below beside best between big bird black blue board boat
    body book both bottle bowl box boy bread bridge bright brown building bus but by cake
    camera can car cat center chair child city clear clock close cloud coat color computer
    corner could counter country cup dark day desk dinner dish dog door down dress each
    early eat edge empty even evening every face family far fence few field find fire
    first floor flower food for forest fork four frame fresh from front fruit full game
    garden gate girl glass go good grass gray green ground group hair half hand hat have
    head height her here high hill his holding horse hot house how if image in inside into
    is island it jacket just keep kitchen knife lake lamp land large last laying leaf left
    leg light like line little long looking low made man many map market metal middle
    might mirror more morning most mountain mouth move much near new next night no north
    not ocean of off office old on one open orange other out oven over page paint paper
    park part path people person phone photo picture piece pink plane plant plate player
    playing pole pot purple quiet rain ready red rest rice riding right river road rock
    roof room round row sand scene sea seat second see seems set several shape shelf ship
    shirt shoe shop shore short show side sign single sitting sky sleeping small snow sofa
    some soft south space square stand standing station stone store street strong summer
    sun surface table tall team tennis than that the their them then there these they thin
    thing third this three through tie to toward tower town track traffic trail train tree
    truck two umbrella under up vase very view village walking wall warm was watch water
    wave way wearing well west wheel when where which while white who wide wind window
    winter with woman wood word yard yellow you young
"""
WORDS = TEXT.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A source and its images."""

    source: Path
    """LLaVA JSON; its records use each image once, and some none."""
    folder: Path
    """Where the image paths of the source start."""
    images: int
    image_bytes: int
    records: int


def make_corpus(folder: Path = FOLDER, images: int = 5000) -> Corpus:
    """Photo-like images as `coco/train2017/*.jpg` and a source that uses each of them once.

    Args:
        folder: where they go; a corpus of this many images that is there already is used again.
        images: how many.
    """
    described = folder / f"corpus-{images}.json"
    source = folder / f"llava-{images}-images.json"
    if described.exists():
        known = json.loads(described.read_text())
        if known.pop("version") == VERSION:
            return Corpus(source=source, folder=folder, **known)
    (folder / "coco" / "train2017").mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        jobs = [(folder, number) for number in range(images)]
        image_bytes = sum(pool.starmap(save_photo, jobs, chunksize=25))
    records = _write(source, _until_used(images))
    facts = {"images": images, "image_bytes": image_bytes, "records": records}
    described.write_text(json.dumps(facts | {"version": VERSION}))
    return Corpus(source=source, folder=folder, **facts)


def make_json(path: Path, records: int, images: int) -> Path:
    """A source of so many records, whose images repeat; one that is there already is used again."""
    if not path.exists():
        random, words = Random(f"json/{records}"), _word_stream()
        used = 0

        def conversations() -> Iterator[dict[str, Any]]:
            nonlocal used
            for number in range(records):
                record = make_record(number, used % images, random, words)
                used += "image" in record
                yield record

        _write(path, conversations())
    return path


def make_thumbnails(folder: Path, images: int) -> Path:
    """Tiny images under the names of the corpus's: for counting records rather than bytes."""
    (folder / "coco" / "train2017").mkdir(parents=True, exist_ok=True)
    for number in range(images):
        path = folder / image_name(number)
        if not path.exists():
            color = (number % 256, number // 256 % 256, 128)
            Image.new("RGB", (32, 24), color).save(path, quality=80)
    return folder


def image_name(number: int) -> str:
    """Path of an image, relative to the image folder."""
    return f"coco/train2017/{number:012d}.jpg"


# conversations


def make_record(number: int, image: int, random: Random, words: list[str]) -> dict[str, Any]:
    """A record of the mix; it has image number `image`, or none."""
    kind = random.choices(MIX, [kind.share for kind in MIX])[0]

    def text(length: tuple[int, int], end: str) -> str:
        start = random.randrange(len(words) - 300)
        return (
            " ".join(words[start : start + random.randint(*length)]).strip(".").capitalize() + end
        )

    conversations = []
    for turn in range(random.randint(*kind.turns)):
        asked = text(kind.asked, "?") + ("" if turn else kind.hint)
        if kind.image and turn == 0:
            asked = f"<image>\n{asked}" if random.random() < 0.7 else f"{asked}\n<image>"
        conversations.append({"from": "human", "value": asked})
        conversations.append({"from": "gpt", "value": text(kind.answered, ".")})
    head: dict[str, Any] = {"id": f"{number:012d}"}
    if kind.image:
        head["image"] = image_name(image)
    return head | {"conversations": conversations}


def _until_used(images: int) -> Iterator[dict[str, Any]]:
    """Records until each image is used once."""
    random, words = Random(f"corpus/{images}"), _word_stream()
    used = number = 0
    while used < images:
        record = make_record(number, used, random, words)
        used += "image" in record
        number += 1
        yield record


def _sentences(words: list[str], end: str) -> str:
    """The words as sentences of a dozen words; the last one ends in `end`."""
    parts = [" ".join(words[at : at + 12]).capitalize() for at in range(0, len(words), 12)]
    return ". ".join(parts) + end


def _word_stream() -> list[str]:
    """Words to cut texts from."""
    return Random("words").choices(WORDS, k=100_000)


def _write(path: Path, records: Iterator[dict[str, Any]]) -> int:
    """Write a JSON array, one record a line; how many there were."""
    count = 0
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(("[" if count == 0 else ",\n") + json.dumps(record))
            count += 1
        file.write("]\n")
    partial.rename(path)
    return count


# photos


def save_photo(folder: Path, number: int) -> int:
    """Draw and save photo number `number`; its size in bytes."""
    rng = np.random.default_rng(number)
    path = folder / image_name(number)
    photo = draw_photo(rng)
    quality, subsampling = int(rng.choice([90, 92, 93, 95])), int(rng.choice([2, 2, 2, 2, 2, 0]))
    photo.save(path, quality=quality, subsampling=subsampling)
    return path.stat().st_size


def draw_photo(rng: np.random.Generator) -> Image.Image:
    """Two textures that meet at the outlines of some objects, lit from one side, with grain."""
    shares = np.array(list(SIZES.values()))
    width, height = list(SIZES)[rng.choice(len(SIZES), p=shares / shares.sum())]
    objects = np.asarray(_objects(rng, width, height), np.float32)[..., None] / 255
    pixels = _texture(rng, width, height) * objects + _texture(rng, width, height) * (1 - objects)
    light = np.linspace(rng.uniform(0.7, 1.0), rng.uniform(1.0, 1.2), width, dtype=np.float32)
    grain = rng.standard_normal((height, width, 1), np.float32) * rng.uniform(2.5, 14.5)
    return Image.fromarray(np.clip(pixels * light[:, None] + grain, 0, 255).astype(np.uint8))


def _texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """float32[height, width, 3]: noise of many scales around a color."""
    lightness = np.zeros((height, width), np.float32)
    for scale, strength in ((160, 45), (64, 30), (24, 18), (8, 10), (3, 6)):
        lightness += _noise(rng, width, height, scale) * strength * rng.uniform(0.3, 1.3)
    base = rng.uniform(50, 200, 3)
    tint = _noise(rng, width, height, 90)
    channels = [lightness + base[c] + tint * rng.uniform(-25, 25) for c in range(3)]
    return np.stack(channels, axis=-1, dtype=np.float32)


def _noise(rng: np.random.Generator, width: int, height: int, scale: int) -> np.ndarray:
    """float32[height, width]: smooth noise whose bumps are `scale` pixels wide."""
    coarse = rng.standard_normal((height // scale + 3, width // scale + 3), np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _objects(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A mask of overlapping outlines, nearly sharp."""
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(4, 14)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        reach = rng.uniform(0.05, 0.3) * width
        corners = [(x + reach * float(np.cos(a)), y + reach * float(np.sin(a))) for a in angles]
        draw.polygon(corners, fill=int(rng.choice([0, 120, 255])))
    return mask.filter(ImageFilter.GaussianBlur(0.7))


def main() -> None:
    """Make the corpus and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    print(make_corpus(images=parser.parse_args().images))


if __name__ == "__main__":
    main()
