"""The demo source: repeatable, true to its pictures, broken exactly where it says so."""

import json
import re
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_help import run_cli
from PIL import Image

from neva_prep.dataprep.demo import DemoSource, draw_demo
from neva_prep.dataprep.scene import (
    COLORS,
    NUMBERS,
    PLACES,
    compare,
    draw_scene,
    make_scene,
    questions,
)
from neva_prep.errors import ConfigError

PICTURES = 40


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoSource:
    return draw_demo(tmp_path_factory.mktemp("demo"), pictures=PICTURES)


def load(demo: DemoSource) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(demo.source.read_text())
    return records


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# What a picture shows, found by looking at its pixels alone.


def see(picture: Image.Image) -> list[tuple[str, str, int]]:
    """(color, kind, place) of each shape, in reading order of the nine places."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    found = []
    for color, rgb in COLORS.items():
        # As far as JPEG moves a color inside a shape; what it makes of edges is too small to count.
        near = np.abs(pixels - rgb).max(axis=2) <= 45
        for mask, top, left in blobs(near):
            height, width = mask.shape
            row = (top + height / 2) * 3 // picture.height
            column = (left + width / 2) * 3 // picture.width
            found.append((color, kind_of(mask), int(row * 3 + column)))
    return sorted(found, key=lambda shape: shape[2])


def blobs(mask: np.ndarray) -> list[tuple[np.ndarray, int, int]]:
    """Connected parts of a mask, cut out, each with the place of its top left corner."""
    todo, parts = {(int(y), int(x)) for y, x in np.argwhere(mask[::2, ::2])}, []
    while todo:
        part, edge = [], [todo.pop()]
        while edge:
            y, x = edge.pop()
            part.append((y, x))
            around = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & todo
            todo -= around
            edge += around
        if len(part) >= 60:
            (top, left), (bottom, right) = np.min(part, axis=0) * 2, np.max(part, axis=0) * 2 + 2
            parts.append((mask[top:bottom, left:right], int(top), int(left)))
    return parts


def kind_of(mask: np.ndarray) -> str:
    height = mask.shape[0]
    filled = mask.mean()
    if filled > 0.9:
        return "square"
    if filled > 0.66:
        return "circle"
    if filled < 0.46:
        return "star"
    if mask[: height // 2].mean() < 0.36:
        return "triangle"
    return "cross" if mask[height // 4].mean() < 0.41 else "diamond"


def look_up(question: str, shapes: list[tuple[str, str, int]]) -> str:
    """The answer to a question, from what was seen."""
    names = [f"{color} {kind}" for color, kind, _ in shapes]
    if match := re.fullmatch(r"What color is the (\w+)\?", question):
        (answer,) = (color for color, kind, _ in shapes if kind == match[1])
    elif match := re.fullmatch(r"What shape is (\w+)\?", question):
        (answer,) = (kind for color, kind, _ in shapes if color == match[1])
    elif question == "How many shapes are there?":
        answer = NUMBERS[len(shapes)]
    elif match := re.fullmatch(r"How many (\w+) shapes are there\?", question):
        answer = NUMBERS[sum(color == match[1] for color, _, _ in shapes)]
    elif match := re.fullmatch(r"How many (\w+?)(es|s) are there\?", question):
        answer = NUMBERS[sum(kind in (match[1], match[1] + "e") for _, kind, _ in shapes)]
    elif match := re.fullmatch(r"Where is the (\w+ \w+)\?", question):
        (answer,) = (
            PLACES[s[2]] for s, name in zip(shapes, names, strict=True) if name == match[1]
        )
    elif match := re.fullmatch(r"Is there an? (\w+ \w+)\?", question):
        answer = "yes" if match[1] in names else "no"
    elif match := re.fullmatch(r"Is the (.+) (to the left of|above) the (.+)\?", question):
        one, other = (shapes[names.index(match[n])][2] for n in (1, 3))
        holds = one % 3 < other % 3 if "left" in match[2] else one // 3 < other // 3
        answer = "yes" if holds else "no"
    else:
        assert question == "Describe the picture."
        return "; ".join(f"{name} {PLACES[s[2]]}" for name, s in zip(names, shapes, strict=True))
    return answer.capitalize()


def spoken(answer: str) -> str:
    """A description as `look_up` writes it; any other answer as it is."""
    if not answer.startswith("It shows"):
        return answer
    parts = re.findall(r"\ban? (\w+ \w+) at the ([a-z ]+?)(?=,| and an? |\.)", answer)
    return "; ".join(" ".join(part) for part in parts)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    drawn = [
        draw_demo(tmp_path / str(i), pictures=8, seed=seed) for i, seed in enumerate([3, 3, 4])
    ]
    first, second, other = (files_in(tmp_path / str(i)) for i in range(3))
    assert first == second
    assert drawn[0].broken == drawn[1].broken
    assert first["shapes.json"] != other["shapes.json"]


def test_a_scene_does_not_depend_on_how_many_are_drawn(demo: DemoSource, tmp_path: Path) -> None:
    few = draw_demo(tmp_path, pictures=5)
    for name in ("shapes/000000.jpg", "shapes/000002.png", "shapes/000003.jpg"):
        assert (few.images / name).read_bytes() == (demo.images / name).read_bytes()


@pytest.mark.parametrize("index", range(30))
def test_every_answer_is_what_the_pixels_show(index: int) -> None:
    scene = make_scene(0, index)
    shapes = see(draw_scene(scene))
    for question in questions(scene):
        assert spoken(question.answer) == look_up(question.text, shapes), question


def test_answers_in_the_source_are_true_of_the_saved_files(demo: DemoSource) -> None:
    records = [record for record in load(demo) if record["id"].startswith("shapes-")]
    assert len(records) == PICTURES
    for record in records:
        with Image.open(demo.images / record["image"]) as picture:
            shapes = see(picture)
        values = [turn["value"] for turn in record["conversations"]]
        for asked, answer in zip(values[::2], values[1::2], strict=True):
            question = asked.replace("<image>", "").strip()
            assert spoken(answer) == look_up(question, shapes), record


def test_the_color_at_the_center_of_each_shape_is_the_stated_one() -> None:
    for index in range(100):
        scene = make_scene(1, index)
        picture = draw_scene(scene)
        for shape in scene.shapes:
            assert picture.getpixel((shape.x, shape.y)) == COLORS[shape.color]


def test_no_question_has_two_answers() -> None:
    for index in range(200):
        asked = [question.text for question in questions(make_scene(2, index))]
        assert len(asked) == len(set(asked))


def test_yes_is_as_frequent_as_no() -> None:
    answers = Counter(
        question.answer for index in range(50) for question in questions(make_scene(0, index))
    )
    assert answers["Yes"] == answers["No"] > 0


def test_the_picture_with_more_of_a_kind_is_named() -> None:
    pairs = [(make_scene(0, 2 * i), make_scene(0, 2 * i + 1)) for i in range(20)]
    answers = set()
    for first, second in pairs:
        seen = [sum(kind == "circle" for _, kind, _ in see(draw_scene(s))) for s in (first, second)]
        more = ("The first", "The second")[seen[0] < seen[1]]
        expected = "Neither" if seen[0] == seen[1] else more
        assert compare(first, second, "circle").answer == expected
        answers.add(expected)
    assert len(answers) == 3


def test_every_kind_of_record_is_there(demo: DemoSource) -> None:
    records = [record for record in load(demo) if not record["id"].startswith("broken")]
    assert {type(record.get("image")) for record in records} == {str, list, type(None)}
    assert {len(record["conversations"]) // 2 for record in records} == {1, 2, 3, 4}
    for record in records:
        images = record.get("image", [])
        marks = sum(turn["value"].count("<image>") for turn in record["conversations"])
        assert marks == (1 if isinstance(images, str) else len(images))
        roles = [turn["from"] for turn in record["conversations"]]
        assert roles == ["human", "gpt"] * (len(roles) // 2)
    assert len({record["id"] for record in load(demo)}) == len(load(demo))


def test_sizes_and_formats_differ_and_one_name_lies(demo: DemoSource) -> None:
    sizes, formats, lies = set(), set(), []
    for path in sorted((demo.images / "shapes").iterdir()):
        with Image.open(path) as picture:
            sizes.add(picture.size)
            formats.add(picture.format)
            if picture.format != {".jpg": "JPEG", ".png": "PNG"}[path.suffix]:
                lies.append((path.name, picture.format))
    assert len(sizes) >= 5
    assert formats == {"JPEG", "PNG"}
    assert lies == [(f"{PICTURES - 1:06d}.png", "JPEG")]


def faults(record: dict[str, Any], images: Path) -> set[str]:
    """Reason codes that hold of a record, judged anew."""
    found: set[str] = set()
    turns = record["conversations"]
    named = record.get("image", [])
    named = [named] if isinstance(named, str) else named
    for name in named:
        path = images / name
        if images.resolve() not in path.resolve().parents:
            found.add("path_traversal")
        elif not path.exists():
            found.add("missing_image")
        elif path.read_bytes()[:3] not in (b"\xff\xd8\xff", b"\x89PN"):
            found.add("not_an_image")
        else:
            data = path.read_bytes()
            if not (data.endswith(b"\xff\xd9") or data[-8:-4] == b"IEND"):
                found.add("truncated_image")
    if sum(turn["value"].count("<image>") for turn in turns) != len(named):
        found.add("placeholder_mismatch")
    roles = [turn["from"] for turn in turns]
    if set(roles) - {"human", "gpt"}:
        found.add("unknown_role")
    elif any(one == other for one, other in pairwise(roles)):
        found.add("roles_not_alternating")
    elif roles[-1] != "gpt":
        found.add("no_answer")
    if not all(turn["value"] for turn in turns):
        found.add("empty_value")
    return found


def test_each_broken_record_has_one_fault_and_the_others_none(demo: DemoSource) -> None:
    found = {record["id"]: faults(record, demo.images) for record in load(demo)}
    assert all(len(codes) == record_id.startswith("broken") for record_id, codes in found.items())
    assert Counter(chain.from_iterable(found.values())) == demo.broken
    assert set(demo.broken) == {
        *("missing_image", "truncated_image", "not_an_image", "path_traversal", "empty_value"),
        *("placeholder_mismatch", "roles_not_alternating", "unknown_role", "no_answer"),
    }


def test_one_picture_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 or more"):
        draw_demo(tmp_path, pictures=1)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "usr"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.jpg").write_bytes(b"a picture")
    (folder / "shapes.json").write_text("[]")
    before = files_in(folder)
    for options in ((), ("--overwrite",)):
        ended = run_cli("demo", folder, "--pictures=4", "--steps=0", *options)
        assert ended.returncode == 2 and "holds other files than a demo's" in ended.stderr
    assert files_in(folder) == before


def test_an_earlier_demo_is_replaced_only_when_asked(tmp_path: Path) -> None:
    draw_demo(tmp_path / "d", pictures=4)
    before = files_in(tmp_path / "d")
    options = ("--pictures=3", "--steps=0")
    ended = run_cli("demo", tmp_path / "d", *options)
    assert ended.returncode == 2 and "give another folder, or --overwrite" in ended.stderr
    assert files_in(tmp_path / "d") == before
    assert run_cli("demo", tmp_path / "d", *options, "--overwrite").returncode == 0


def test_a_file_or_senseless_numbers_are_told_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        ended = run_cli("demo", folder)
        assert ended.returncode == 2 and f"{folder}: cannot be the demo's folder" in ended.stderr
    for option in ("--steps=-1", "--pictures=1"):
        ended = run_cli("demo", tmp_path / "d", option)
        assert ended.returncode == 2 and not (tmp_path / "d").exists()
