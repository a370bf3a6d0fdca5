"""Small sources for the fuzzing of lives: records as they come, and the same records mended."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from handmade import picture

Row = dict[str, Any]
IMAGES = {
    "a.jpg": picture(24, 16),
    "b.png": picture(20, 10, "PNG"),
    "c.webp": picture(48, 36, "WEBP"),
    "d.gif": picture(9, 7, "GIF"),
    "sub/e.jpg": picture(40, 30, "PNG"),
    "f.jpg": picture(64, 64, quality=95),
}
_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Lived:
    """A source, and what it is when all of its faults are mended."""

    rows: list[Row]
    mended: list[Row]
    images: dict[str, bytes]
    late: dict[str, bytes]
    """Images that are missing or damaged at first."""
    layout: str
    """Of the file: how its records are written."""
    store: str
    """Of the images: `folder`, `zip` or `tar`."""

    @property
    def name(self) -> str:
        """Of the file."""
        return "source.jsonl" if self.layout == "lines" else "source.json"

    def write(self, folder: Path, *, mended: bool, images: bool) -> tuple[Path, Path]:
        """Write it, with its records or its images mended or not; gives file and images."""
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / self.name
        source.write_bytes(_file(self.mended if mended else self.rows, self.layout))
        return source, _store(folder, self.store, self.images | (self.late if images else {}))


def make_lived(random: Random) -> Lived:
    """A source of a seed: some records repeat earlier ones, a third has a fault."""
    rows: list[Row] = []
    mended: list[Row] = []
    images, late = dict(IMAGES), {}
    for number in range(random.randrange(4, 24)):
        if rows and random.random() < 0.15:
            at, id = random.randrange(len(rows)), f"id-{number}"
            rows.append({**rows[at], "id": id})
            mended.append({**mended[at], "id": id})
            continue
        row = _row(number, random)
        broken = _copy(row)
        if random.random() < 0.35:
            fault = random.choice(("missing", "cut", *_FAULTS))
            if fault in _FAULTS:
                _FAULTS[fault](broken)
            elif row.get("image"):
                name, content = f"late-{number}.png", picture(12 + number, 9, "PNG")
                row["image"] = broken["image"] = [*row["image"][1:], name]
                late[name] = content
                if fault == "cut":
                    images[name] = content[: len(content) // 2]
        rows.append(broken)
        mended.append(row)
    layout = random.choice(("array", "indented", "under", "lines"))
    store = random.choice(("folder", "folder", "zip", "tar"))
    if random.random() < 0.4:
        rows, mended = [_as_messages(row) for row in rows], [_as_messages(row) for row in mended]
    return Lived(rows, mended, images, late, layout, store)


def _row(number: int, random: Random) -> Row:
    paths = random.choices(list(IMAGES), k=random.choice((0, 1, 1, 1, 1, 2, 3)))
    talk = [{"from": "system", "value": "Be brief."}] if random.random() < 0.1 else []
    for turn in range(random.choice((1, 1, 1, 2, 3))):
        marks = "<image>\n" * len(paths) if not turn else ""
        talk.append({"from": "human", "value": f"{marks}What is {random.randrange(12)}? é"})
        talk.append({"from": "gpt", "value": random.choice((f"It is {number}.", "Yes.", "No."))})
    row: Row = {"id": f"id-{number}"} if random.random() < 0.85 else {}
    row |= {"image": paths} if paths else {}
    row["conversations"] = talk
    if random.random() < 0.3:
        row["score"] = random.choice((1.10, 3, None, "x"))
    return row


def _copy(row: Row) -> Row:
    copied: Row = json.loads(json.dumps(row))
    return copied


def _unmark(row: Row) -> None:
    for turn in row["conversations"]:
        turn["value"] = turn["value"].replace("<image>\n", "")


_FAULTS: dict[str, Callable[[Row], None]] = {
    "no answer": lambda row: row["conversations"].pop(),
    "no marks": _unmark,
    "odd role": lambda row: row["conversations"][-1].update({"from": "narrator"}),
    "a mark too many": lambda row: row["conversations"][-2].update(value="<image>" * 9),
    "empty answer": lambda row: row["conversations"][-1].update(value=" "),
    "out of the folder": lambda row: row.update(image=["../source.json"]),
}


def _as_messages(row: Row) -> Row:
    talk = row["conversations"]
    messages = [
        {"role": _ROLES.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in talk
    ]
    row = {("images" if name == "image" else name): value for name, value in row.items()}
    return {name: value for name, value in row.items() if name != "conversations"} | {
        "messages": messages
    }


def _file(rows: list[Row], layout: str) -> bytes:
    if layout == "lines":
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    if layout == "under":
        return json.dumps({"info": 1, "data": rows}).encode()
    text = json.dumps(rows, ensure_ascii=False, indent=1 if layout == "indented" else None)
    return text.encode()


def _store(folder: Path, store: str, images: dict[str, bytes]) -> Path:
    if store == "folder":
        for name, content in images.items():
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / "images"
    path = folder / f"images.{store}"
    if store == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in images.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        return path
    with tarfile.open(path, "w") as tar:
        for name, content in images.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path
