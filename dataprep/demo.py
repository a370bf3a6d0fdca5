"""A LLaVA source to try things on: pictures of shapes, true answers, and some broken records."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from ..errors import ConfigError
from ..loaders.format import IMAGE_PLACEHOLDER
from .scene import (
    KINDS,
    NUMBERS,
    Question,
    Scene,
    article,
    compare,
    draw_scene,
    make_scene,
    plural,
    questions,
)

Record = dict[str, Any]
SOURCE_FILE = "shapes.json"
_BEGINS = b'[\n {\n  "id": "shapes-000000",'
CORNERS = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "octagon": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSource:
    """What `draw_demo` has drawn."""

    source: Path
    """The LLaVA JSON array."""
    images: Path
    """The image folder."""
    broken: dict[str, int]
    """Reason code -> how many records are to be rejected for it."""


def check_demo_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the folder; refuse one that holds anything but an earlier demo.

    Args:
        folder: of a demo.
        overwrite: whether an earlier demo may be replaced.

    Raises:
        ConfigError: it is no folder, or is not to be written over.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be the demo's folder ({error.strerror}); give another one"
        ) from error
    if names and not _is_demo(folder / SOURCE_FILE):
        raise ConfigError(
            f"{folder}: holds other files than a demo's ({', '.join(names[:3])}); give a new or "
            "empty folder"
        )
    if names and not overwrite:
        raise ConfigError(f"{folder}: holds an earlier demo; give another folder, or --overwrite")


def _is_demo(source: Path) -> bool:
    """Whether `draw_demo` wrote it."""
    try:
        with source.open("rb") as file:
            return file.read(len(_BEGINS)) == _BEGINS
    except OSError:
        return False


def draw_demo(folder: Path, *, pictures: int = 300, seed: int = 0) -> DemoSource:
    """Pictures of shapes with true questions and answers, and a dozen broken records among them.

    Args:
        folder: gets `shapes.json` and `images/`; files of an earlier call are replaced.
        pictures: how many to draw, 2 at least.
        seed: decides everything.

    Raises:
        ConfigError: fewer than 2 pictures.
    """
    if pictures < 2:
        raise ConfigError(f"{pictures} pictures: records that compare two pictures need 2 or more")
    images = folder / "images"
    (images / "shapes").mkdir(parents=True, exist_ok=True)
    (images / "broken").mkdir(exist_ok=True)
    scenes = [make_scene(seed, index) for index in range(pictures)]
    names = [
        _save(draw_scene(scene), images, index, misnamed=index == pictures - 1)
        for index, scene in enumerate(scenes)
    ]
    broken = list(_broken_records(images, names))
    records = _scatter(list(_true_records(scenes, names, seed)), [record for _, record in broken])
    source = folder / SOURCE_FILE
    source.write_text(json.dumps(records, indent=1), encoding="utf-8")
    rejected = dict(Counter(reason for reason, _ in broken))
    return DemoSource(source=source, images=images, broken=rejected)


def _save(picture: Image.Image, images: Path, index: int, *, misnamed: bool) -> str:
    """Save a picture as JPEG, every third one as PNG; its path relative to the image folder.

    Args:
        picture: what to save.
        images: the image folder.
        index: number of the picture.
        misnamed: give a JPEG the name of a PNG, as happens in real sources.
    """
    as_png = index % 3 == 2 and not misnamed
    name = f"shapes/{index:06d}.{'png' if as_png or misnamed else 'jpg'}"
    if as_png:
        picture.save(images / name, format="PNG", compress_level=3)
    else:
        picture.save(images / name, format="JPEG", quality=92)
    return name


def _true_records(scenes: list[Scene], names: list[str], seed: int) -> Iterator[Record]:
    """A record for each picture; now and then one for two pictures, or one of text alone."""
    for index, (scene, name) in enumerate(zip(scenes, names, strict=True)):
        random = Random(f"record/{seed}/{index}")
        yield _record(f"shapes-{index:06d}", name, _some_questions(scene, random), random)
        if index % 10 == 9:
            before = index - 1
            kind = random.choice([shape.kind for shape in (*scenes[before].shapes, *scene.shapes)])
            question = compare(scenes[before], scene, kind)
            yield _record(f"pair-{index:06d}", [names[before], name], [question], random)
        if index % 20 == 19:
            yield _record(f"text-{index:06d}", None, _text_questions(random), random)


def _some_questions(scene: Scene, random: Random) -> list[Question]:
    """One to four questions of different topics, so that no answer repeats an earlier one."""
    by_topic: dict[str, list[Question]] = {}
    for question in questions(scene):
        by_topic.setdefault(question.topic, []).append(question)
    topics = random.sample(sorted(by_topic), k=min(random.randint(1, 4), len(by_topic)))
    return [random.choice(by_topic[topic]) for topic in topics]


def _text_questions(random: Random) -> list[Question]:
    corners = random.choice(sorted(CORNERS))
    some, more = random.sample(KINDS, k=2)
    one, other = random.randint(2, 4), random.randint(2, 4)
    return [
        Question(
            "text",
            f"How many corners does {article(corners)} have?",
            NUMBERS[CORNERS[corners]].capitalize(),
        ),
        Question(
            "text",
            f"I draw {NUMBERS[one]} {plural(some)} and {NUMBERS[other]} {plural(more)}. "
            "How many shapes do I draw?",
            NUMBERS[one + other].capitalize(),
        ),
    ]


def _record(
    record_id: str, image: str | list[str] | None, asked: list[Question], random: Random
) -> Record:
    """A LLaVA record; the placeholders stand before the first question or, more rarely, after."""
    marks = [IMAGE_PLACEHOLDER] * (
        0 if image is None else 1 if isinstance(image, str) else len(image)
    )
    first = asked[0].text
    lines = [*marks, first] if random.random() < 0.75 else [first, *marks]
    turns = [("human", "\n".join(lines)), ("gpt", asked[0].answer)]
    for question in asked[1:]:
        turns += [("human", question.text), ("gpt", question.answer)]
    record: Record = {"id": record_id}
    if image is not None:
        record["image"] = image
    return record | {"conversations": _conversation(*turns)}


def _conversation(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": role, "value": value} for role, value in turns]


def _broken_records(images: Path, names: list[str]) -> Iterator[tuple[str, Record]]:
    """Records of which each has one fault, with the reason code of that fault."""
    asked = ("human", f"{IMAGE_PLACEHOLDER}\nHow many shapes are there?")
    again = ("human", "Are you sure?")
    answer = ("gpt", "Three")
    good = names[0]
    faults: list[tuple[str, str | list[str], list[tuple[str, str]]]] = [
        ("missing_image", "shapes/no-such-picture.jpg", [asked, answer]),
        ("missing_image", "other-folder/000000.jpg", [asked, answer]),
        ("truncated_image", _cut(images, "JPEG"), [asked, answer]),
        ("truncated_image", _cut(images, "PNG"), [asked, answer]),
        ("not_an_image", _text_as_image(images), [asked, answer]),
        ("path_traversal", "../shapes.json", [asked, answer]),
        ("placeholder_mismatch", good, [(asked[0], f"{IMAGE_PLACEHOLDER}\n{asked[1]}"), answer]),
        ("placeholder_mismatch", [good, names[1]], [asked, answer]),
        ("roles_not_alternating", good, [asked, again, answer]),
        ("unknown_role", good, [asked, ("narrator", "Three")]),
        ("empty_value", good, [asked, ("gpt", "")]),
        ("no_answer", good, [asked]),
    ]
    for number, (reason, image, turns) in enumerate(faults):
        yield (
            reason,
            {
                "id": f"broken-{number:02d}",
                "image": image,
                "conversations": _conversation(*turns),
            },
        )


def _cut(images: Path, image_format: str) -> str:
    """A picture whose second half is missing, as after a broken download."""
    whole = io.BytesIO()
    draw_scene(make_scene(0, 0)).save(whole, format=image_format)
    name = f"broken/cut.{'jpg' if image_format == 'JPEG' else 'png'}"
    (images / name).write_bytes(whole.getvalue()[: whole.tell() // 2])
    return name


def _text_as_image(images: Path) -> str:
    """What a web server says when it has no such picture, saved under the picture's name."""
    name = "broken/page.jpg"
    (images / name).write_text("<html><body>404 Not Found</body></html>\n")
    return name


def _scatter(records: list[Record], others: list[Record]) -> list[Record]:
    """The records with the others spread evenly among them."""
    step = max(1, len(records) // (len(others) + 1))
    merged = list(records)
    for number, other in enumerate(others, start=1):
        # Each insertion moves what follows by one.
        merged.insert(min(number * step + number - 1, len(merged)), other)
    return merged
