"""Small sources and their images, converted and read back with the standard library alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.report import ConvertReport

Row = dict[str, Any]


def turns(*values: str) -> list[Row]:
    """A conversation: human and gpt in turns."""
    roles = ("human", "gpt")
    return [{"from": roles[place % 2], "value": value} for place, value in enumerate(values)]


def record(name: str, image: Any = "good.jpg", **fields: Any) -> Row:
    """A valid record, unless the fields say otherwise; a field that is `...` is left out."""
    row = {"id": name, "image": image, "conversations": turns("<image>\nWhat is it?", "A picture.")}
    return {field: value for field, value in {**row, **fields}.items() if value is not ...}


def text_record(name: str, *values: str, **fields: Any) -> Row:
    """A valid record without an image."""
    talk = turns(*(values or ("Why?", "Because.")))
    return record(name, **{"image": ..., "conversations": talk, **fields})


def make_source(
    folder: Path, records: list[Any] | bytes, images: dict[str, bytes] | None = None
) -> Path:
    """A source beside its images: `good.jpg` and those given. Text for bytes, JSON for a list."""
    for name, content in {"good.jpg": picture(), **(images or {})}.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(content)
    source = folder / "source.json"
    source.write_bytes(records if isinstance(records, bytes) else json.dumps(records).encode())
    return source


@dataclass(frozen=True)
class Converted:
    """A conversion and what it left."""

    out: Path
    report: ConvertReport

    @property
    def samples(self) -> dict[str, dict[str, bytes]]:
        return read_samples(self.out)

    @property
    def rows(self) -> list[Row]:
        return read_quarantine(self.out)

    @property
    def records(self) -> dict[str, Row]:
        """JSON members by key."""
        return {key: json.loads(members["json"]) for key, members in self.samples.items()}


def convert_in(
    folder: Path,
    records: list[Any] | bytes,
    images: dict[str, bytes] | None = None,
    **options: Any,
) -> Converted:
    """Make a source in a folder and convert it."""
    source = make_source(folder, records, images)
    out = folder / "out"
    report = convert(source, folder / "images", out, ConvertOptions(**options))
    assert report.records == report.samples + report.rejected + report.filtered
    if not report.dry_run:
        assert len(read_samples(out)) == report.samples
        assert len(read_quarantine(out)) == report.rejected
    return Converted(out, report)


def reasons_of(converted: Converted) -> dict[str, str]:
    """Reason of each rejected record, by id."""
    return {row["id"]: row["reason"] for row in converted.rows}


def read_samples(out: Path) -> dict[str, dict[str, bytes]]:
    """Members of each sample of a dataset: key -> what follows the key in the name -> content."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None and name not in samples.get(key, {})
                samples.setdefault(key, {})[name] = file.read()
    return samples


def read_quarantine(out: Path) -> list[Row]:
    """Rows of OUT/quarantine.jsonl."""
    path = out / "quarantine.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def write_quarantine(out: Path, rows: list[Row]) -> None:
    """Put corrected rows into OUT/quarantine.jsonl."""
    lines = [json.dumps(row) + "\n" for row in rows]
    (out / "quarantine.jsonl").write_text("".join(lines), encoding="utf-8")


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its path in it."""
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_cli(*arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does. A command that hangs fails the test."""
    command = [
        sys.executable,
        "-m",
        "neva_prep.cli",
        *(os.fspath(argument) for argument in arguments),
    ]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def shared(*parts: str) -> Path | None:
    """A path in the folder of real sources beside the checkout; None in a plain clone."""
    path = Path(__file__).parents[2].joinpath("shared", *parts)
    return path if path.exists() else None
