"""Tables made by the libraries that people make them with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert_help import Row, read_samples
from handmade import picture

if TYPE_CHECKING:
    import datasets


def image(number: int) -> bytes:
    """A picture that no other number has."""
    kind = ("JPEG", "PNG", "WEBP")[number % 3]
    return picture(16 + number % 50, 16 + number // 50, kind)


def llava_rows(count: int) -> list[Row]:
    """Rows like LLaVA-OneVision's: one in five has no image, one in three no name of its image."""
    return [
        {
            "id": f"row {number}",
            "image": None
            if number % 5 == 4
            else {
                "bytes": image(number),
                "path": None if number % 3 else f"{number}.{('jpg', 'png', 'webp')[number % 3]}",
            },
            "conversations": [
                {
                    "from": "human",
                    "value": "<image>\n" * (number % 5 != 4) + f"What is {number}? 猫",
                },
                {"from": "gpt", "value": f"It is {number}."},
            ],
            "data_source": "handmade",
        }
        for number in range(count)
    ]


def llava_table(count: int) -> datasets.Dataset:
    """Those rows as `datasets` has them."""
    # It takes seconds to import.
    import datasets

    datasets.disable_progress_bars()
    text = datasets.Value("string")
    talk = [{"from": text, "value": text}]
    features = datasets.Features(
        id=text, image=datasets.Image(), conversations=talk, data_source=text
    )
    return datasets.Dataset.from_list(llava_rows(count), features=features)


def stored(out: Path) -> list[tuple[Row, list[bytes]]]:
    """Each sample of a dataset: its JSON member, and its images in order."""
    samples = read_samples(out).values()
    return [
        (
            json.loads(members["json"]),
            [members[name] for name in sorted(members) if name != "json"],
        )
        for members in samples
    ]


def said(record: Row) -> list[tuple[str, str]]:
    """The turns of a stored record."""
    return [(turn["from"], turn["value"]) for turn in record["conversations"]]


def given_images(row: Row) -> list[bytes]:
    """The images of a row as `datasets` was given them."""
    held: Any = row.get("images", row.get("image"))
    many: Sequence[Any] = held if isinstance(held, list) else [held]
    return [one["bytes"] for one in many if one is not None]
