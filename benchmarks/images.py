"""Image bytes to pixels: ours beside Hugging Face's image processor.

    python benchmarks/images.py [--images 150] [--rounds 9]

- hf: Pillow decodes, transformers' CLIPImageProcessorPil makes float32 of 336 x 336.
- exact: process_image, the same bits.
- fast: process_image in mode fast, uint8 that is normalised on the device; also as bfloat16.
- pillow: decoding and resizing alone, the floor of whatever has Pillow's bits.

Photo-like JPEGs of 640 x 480, in memory. The programs take turns, a round of all images each, on
one thread; CPU time counts, medians of the rounds. That exact is equal to hf, and fast within 2 of
255 levels, is checked first. The same is measured for LLaVA's pad to square, which the peer does
as LLaVA does it.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from corpus import make_corpus
from machine import write_result
from PIL import Image

from neva_prep.loaders.fit_image import process_image
from neva_prep.loaders.image_config import ImageConfig

SIZE = 336
TARGETS = {"hf_over_exact": 1.3, "hf_over_fast": 3.5}
"""Of the fit crop, which is what Hugging Face's LlavaProcessor does."""
Program = Callable[[bytes], Any]


def open_photos(images: int) -> list[bytes]:
    """The first photos of 640 x 480 in the corpus; a bit more than half are."""
    corpus = make_corpus(images=2 * images)
    photos = []
    for path in sorted(Path(corpus.folder, "coco/train2017").glob("*.jpg"))[: 2 * images]:
        with Image.open(path) as photo:
            if photo.size == (640, 480):
                photos.append(path.read_bytes())
    return photos[:images]


def programs(fit: str) -> dict[str, Program]:
    """What is measured, by name."""
    from transformers import CLIPImageProcessorPil

    square = {"height": SIZE, "width": SIZE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=square)
    exact = ImageConfig(size=SIZE, fit="pad" if fit == "pad" else "crop")
    fast = replace(exact, mode="fast", output="uint8")
    prepared = padded if fit == "pad" else decoded
    size = (SIZE, SIZE) if fit == "pad" else (SIZE * 640 // 480, SIZE)
    return {
        "hf": lambda data: processor(prepared(data), return_tensors="pt")["pixel_values"],
        "pillow": lambda data: prepared(data).resize(size, Image.Resampling.BICUBIC),
        "exact": lambda data: process_image(data, exact),
        "fast": lambda data: process_image(data, fast),
        "fast_bfloat16": lambda data: process_image(data, replace(fast, output="bfloat16")),
    }


def decoded(data: bytes) -> Image.Image:
    """An RGB picture, as Pillow's users read one."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def padded(data: bytes) -> Image.Image:
    """The picture in a square of the mean colour, as LLaVA pads it."""
    picture = decoded(data)
    width, height = picture.size
    edge = max(width, height)
    square = Image.new("RGB", (edge, edge), ImageConfig().background)
    square.paste(picture, ((edge - width) // 2, (edge - height) // 2))
    return square


def check(photos: list[bytes], runs: dict[str, Program], config: ImageConfig) -> int:
    """Whether exact equals hf; the most levels of 255 that fast is off."""
    apart = 0
    for photo in photos:
        exact = runs["exact"](photo)
        if not torch.equal(exact, runs["hf"](photo)):
            sys.exit("exact differs from Hugging Face's pixels")
        levels = process_image(photo, replace(config, output="uint8")).int()
        apart = max(apart, int((levels - runs["fast"](photo).int()).abs().max()))
    return apart


def measure(photos: list[bytes], runs: dict[str, Program], rounds: int) -> dict[str, float]:
    """CPU milliseconds per image of each program, the programs in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            for photo in photos:
                run(photo)
            times[name].append((time.process_time() - start) / len(photos) * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Measure both fits, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photos = open_photos(arguments.images)
    found: dict[str, Any] = {"images": len(photos), "rounds": arguments.rounds}
    for fit in ("crop", "pad"):
        runs = programs(fit)
        apart = check(photos, runs, ImageConfig(size=SIZE, fit="pad" if fit == "pad" else "crop"))
        cost = measure(photos, runs, arguments.rounds)
        ratios = {f"hf_over_{name}": cost["hf"] / cost[name] for name in cost if name != "hf"}
        found[fit] = {"cpu_ms_per_image": cost, "fast_levels_off": apart} | ratios
        print(f"{fit} to {SIZE}: {len(photos)} JPEGs of 640 x 480; fast is off by {apart} levels")
        for name, value in cost.items():
            print(f"  {name:14} {value:6.2f} ms of one core  {cost['hf'] / value:5.2f} x hf")
    found["targets"] = {
        name: {"value": found["crop"][name], "target": f">= {least}"}
        | {"met": found["crop"][name] >= least}
        for name, least in TARGETS.items()
    }
    print("targets of crop:", found["targets"])
    print(write_result("images", found))


if __name__ == "__main__":
    main()
