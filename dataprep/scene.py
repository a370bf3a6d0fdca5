"""Scenes of shapes: what is where, its picture, and the questions that have one true answer.

`make_scene` → `draw_scene` and `questions`: both follow from the scene alone, so that answers are
never read from pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from PIL import Image, ImageDraw, ImageFilter

RGB = tuple[int, int, int]

COLORS: dict[str, RGB] = {
    "red": (214, 40, 40),
    "orange": (242, 132, 20),
    "yellow": (246, 212, 36),
    "green": (46, 148, 66),
    "blue": (36, 98, 204),
    "purple": (128, 52, 164),
    "black": (34, 34, 38),
}
KINDS = ("circle", "square", "triangle", "star", "diamond", "cross")
PLACES = (
    *("top left", "top center", "top right"),
    *("middle left", "center", "middle right"),
    *("bottom left", "bottom center", "bottom right"),
)
"""Cells of a 3 x 3 grid in reading order; no two shapes share a cell."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZES = ((336, 336), (320, 240), (240, 320), (448, 336), (400, 300), (640, 480))
BACKGROUNDS: tuple[RGB, ...] = (
    *((250, 247, 240), (228, 236, 244), (236, 242, 230)),
    *((244, 232, 236), (214, 224, 232), (232, 226, 240)),
)
SUPERSAMPLING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One shape of a scene."""

    color: str
    kind: str
    cell: int
    """Index into PLACES."""
    x: int
    """Center, pixels from the left."""
    y: int
    """Center, pixels from the top."""
    radius: int
    """Pixels from the center to the outline's tips; a square's sides are a little nearer."""

    @property
    def name(self) -> str:
        """Color and kind."""
        return f"{self.color} {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that a picture shows; the picture and the answers both follow from it."""

    width: int
    height: int
    background: tuple[RGB, RGB]
    """Colors that the background runs between."""
    shapes: tuple[Shape, ...]
    """In reading order."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene with its one true answer."""

    topic: str
    """`color`, `shape`, `count`, `position`, `presence`, `relation` or `description`."""
    text: str
    answer: str


def make_scene(seed: int, index: int) -> Scene:
    """The scene number `index`: one to six shapes of few colors and kinds, so that some repeat."""
    random = Random(f"scene/{seed}/{index}")
    width, height = random.choice(SIZES)
    colors = random.sample(sorted(COLORS), k=random.randint(2, 3))
    kinds = random.sample(KINDS, k=random.randint(2, 3))
    cells = sorted(random.sample(range(len(PLACES)), k=random.randint(1, 6)))
    first, second = random.sample(BACKGROUNDS, k=2)
    return Scene(
        width=width,
        height=height,
        background=(first, second),
        shapes=tuple(
            _place(random.choice(colors), random.choice(kinds), cell, width, height, random)
            for cell in cells
        ),
    )


def make_simple_scene(seed: int, index: int) -> Scene:
    """A scene of one color and one kind, half of them of one shape: a small model can learn them.

    Shapes are large and near the middle of their cells, in a square picture.
    """
    random = Random(f"simple scene/{seed}/{index}")
    color, kind = random.choice(sorted(COLORS)), random.choice(KINDS)
    cells = sorted(random.sample(range(len(PLACES)), k=random.choice((1, 1, 1, 2, 3, 4))))
    first, second = random.sample(BACKGROUNDS, k=2)
    shapes = [
        Shape(
            color=color,
            kind=kind,
            cell=cell,
            x=cell % 3 * 112 + 56 + random.randint(-8, 8),
            y=cell // 3 * 112 + 56 + random.randint(-8, 8),
            radius=random.randint(38, 48),
        )
        for cell in cells
    ]
    return Scene(width=336, height=336, background=(first, second), shapes=tuple(shapes))


def _place(color: str, kind: str, cell: int, width: int, height: int, random: Random) -> Shape:
    """A shape that stays within its cell."""
    row, column = divmod(cell, 3)
    cell_width, cell_height = width // 3, height // 3
    smaller = min(cell_width, cell_height)
    radius = random.randint(smaller * 26 // 100, smaller * 40 // 100)
    slack_x, slack_y = cell_width // 2 - radius - 3, cell_height // 2 - radius - 3
    return Shape(
        color=color,
        kind=kind,
        cell=cell,
        x=column * cell_width + cell_width // 2 + random.randint(-slack_x, slack_x),
        y=row * cell_height + cell_height // 2 + random.randint(-slack_y, slack_y),
        radius=radius,
    )


def draw_scene(scene: Scene) -> Image.Image:
    """The picture of a scene: shapes with smooth edges and soft shadows on a soft background."""
    size = (scene.width, scene.height)
    first, second = (Image.new("RGB", size, color) for color in scene.background)
    picture = Image.composite(first, second, Image.linear_gradient("L").resize(size))
    for shape in scene.shapes:
        mask = _mask(shape)
        corner = (shape.x - mask.width // 2, shape.y - mask.height // 2)
        drop = max(2, shape.radius // 12)
        shadow = mask.filter(ImageFilter.GaussianBlur(drop)).point([v // 3 for v in range(256)])
        picture.paste((40, 40, 60), (corner[0] + drop, corner[1] + drop), shadow)
        picture.paste(COLORS[shape.color], corner, mask)
    return picture


def _mask(shape: Shape) -> Image.Image:
    """Coverage 0–255 of the pixels around a shape's center."""
    center = (shape.radius * 3 // 2) * SUPERSAMPLING
    mask = Image.new("L", (2 * center, 2 * center))
    draw, radius = ImageDraw.Draw(mask), shape.radius * SUPERSAMPLING
    if shape.kind == "circle":
        draw.ellipse([center - radius, center - radius, center + radius, center + radius], fill=255)
    else:
        draw.polygon(
            [(center + x * radius, center + y * radius) for x, y in _outline(shape.kind)], fill=255
        )
    return mask.reduce(SUPERSAMPLING)


def _outline(kind: str) -> list[tuple[float, float]]:
    """Corners of a shape of radius 1 around (0, 0), y downwards."""
    if kind == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if kind == "triangle":
        return _polygon([1.0] * 3)
    if kind == "star":
        return _polygon([1.0, 0.42] * 5)
    if kind == "diamond":
        return [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]
    arm = 0.32  # Half the width of a cross's arms.
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    turned = [quarter]
    for _ in range(3):
        turned.append([(-y, x) for x, y in turned[-1]])
    return [point for corner in turned for point in corner]


def _polygon(radii: list[float]) -> list[tuple[float, float]]:
    """Corners at these distances from the center, at equal angles, the first one on top."""
    step = 2 * math.pi / len(radii)
    return [(r * math.sin(i * step), -r * math.cos(i * step)) for i, r in enumerate(radii)]


def questions(scene: Scene) -> list[Question]:
    """Every question about a scene that has exactly one true answer; as many yes as no."""
    return [
        *_of_color_and_shape(scene),
        *_of_count(scene),
        *_of_position(scene),
        *_of_presence(scene),
        *_of_relation(scene),
        _description(scene),
    ]


def _of_color_and_shape(scene: Scene) -> Iterator[Question]:
    kinds = Counter(shape.kind for shape in scene.shapes)
    colors = Counter(shape.color for shape in scene.shapes)
    for shape in scene.shapes:
        if kinds[shape.kind] == 1:
            yield Question("color", f"What color is the {shape.kind}?", shape.color.capitalize())
        if colors[shape.color] == 1:
            yield Question("shape", f"What shape is {shape.color}?", shape.kind.capitalize())


def _of_count(scene: Scene) -> Iterator[Question]:
    def question(things: str, number: int) -> Question:
        return Question("count", f"How many {things} are there?", NUMBERS[number].capitalize())

    yield question("shapes", len(scene.shapes))
    kinds = Counter(shape.kind for shape in scene.shapes)
    colors = Counter(shape.color for shape in scene.shapes)
    # One absent kind, so that zero is an answer too, but a rare one.
    for kind in (*kinds, _absent(KINDS, kinds, scene)):
        yield question(plural(kind), kinds[kind])
    for color in colors:
        yield question(f"{color} shapes", colors[color])


def _of_position(scene: Scene) -> Iterator[Question]:
    for shape in _singular(scene):
        yield Question("position", f"Where is the {shape.name}?", PLACES[shape.cell].capitalize())


def _of_presence(scene: Scene) -> Iterator[Question]:
    taken = {shape.name: shape for shape in scene.shapes}
    for name, shape in list(taken.items()):
        yield Question("presence", f"Is there {article(name)}?", "Yes")
        # Near misses: the same kind in a color that it does not have here.
        misses = [f"{color} {shape.kind}" for color in COLORS]
        other = _absent(misses, taken, scene)
        taken[other] = shape
        yield Question("presence", f"Is there {article(other)}?", "No")


def _of_relation(scene: Scene) -> Iterator[Question]:
    single = _singular(scene)
    for one, other in pairwise(single):
        (row, column), (other_row, other_column) = divmod(one.cell, 3), divmod(other.cell, 3)
        if column != other_column:
            yield from _yes_no(one.name, other.name, "to the left of", column < other_column)
        if row != other_row:
            yield from _yes_no(one.name, other.name, "above", row < other_row)


def _yes_no(one: str, other: str, relation: str, holds: bool) -> Iterator[Question]:
    yield Question("relation", f"Is the {one} {relation} the {other}?", "Yes" if holds else "No")
    yield Question("relation", f"Is the {other} {relation} the {one}?", "No" if holds else "Yes")


def _description(scene: Scene) -> Question:
    parts = [f"{article(shape.name)} at the {PLACES[shape.cell]}" for shape in scene.shapes]
    text = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return Question("description", "Describe the picture.", f"It shows {text}.")


def _absent(names: Sequence[str], present: Container[str], scene: Scene) -> str:
    """A name that is not present: not always the same one, yet a function of the scene."""
    start = sum(shape.x + shape.y for shape in scene.shapes) % len(names)
    return next(name for name in [*names[start:], *names[:start]] if name not in present)


def _singular(scene: Scene) -> list[Shape]:
    """Shapes that color and kind single out."""
    names = Counter(shape.name for shape in scene.shapes)
    return [shape for shape in scene.shapes if names[shape.name] == 1]


def compare(first: Scene, second: Scene, kind: str) -> Question:
    """Which of two pictures has more shapes of a kind."""
    counts = [sum(shape.kind == kind for shape in scene.shapes) for scene in (first, second)]
    answer = "Neither" if counts[0] == counts[1] else "The first" if counts[0] > counts[1] else ""
    text = f"Which picture has more {plural(kind)}, the first, the second or neither?"
    return Question("comparison", text, answer or "The second")


def plural(kind: str) -> str:
    """More than one of a kind."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def article(name: str) -> str:
    """The name with `a` or `an` before it."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
