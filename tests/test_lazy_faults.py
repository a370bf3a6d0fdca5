"""Records that the lazy module cannot use, and which file a sample is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from handmade import picture
from lazy_help import lazy, row


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture(50, 30))
    (folder / "cut.jpg").write_bytes(picture(50, 30)[:300])
    (folder / "loop").symlink_to("loop")
    return folder


FAULTY: dict[str, Any] = {"config": {"val_fraction": 0.0}, "max_skip_ratio": 0.5}


@pytest.mark.parametrize("path", ["a\0.jpg", "loop", "loop/a.jpg", "\ud800.jpg", "x" * 5000, ""])
def test_a_path_that_cannot_be_one_is_skipped_with_its_record(path: str, images: Path) -> None:
    file = images.parent / "bad.jsonl"
    file.write_text("\n".join(json.dumps(row(n, path if n == 3 else "a.jpg")) for n in range(8)))
    with lazy(file, images, **FAULTY) as data:
        stream = data.train_dataloader()
        found = {key for _ in range(8) for key in next(stream)["__keys__"]}
        report = data.skip_report()
    assert found == {f"{n:09d}" for n in range(8) if n != 3}
    (reason,) = report.skipped
    assert reason in ("missing_image", "bad_path")
    assert f"{file}:3: " in report.examples[reason]
    assert report.examples[reason].count(str(file)) == 1


def test_samples_of_several_files_are_told_apart(images: Path) -> None:
    files = [images.parent / f"{name}.json" for name in "AB"]
    for number, file in enumerate(files):
        rows = [row(n) for n in range(10)]
        if number:
            rows[5] = row(5, "cut.jpg")
        file.write_text(json.dumps(rows))
    with lazy(files, images, **FAULTY) as data:
        stream = data.train_dataloader()
        batches = [next(stream) for _ in range(12)]
        report = data.skip_report()
    seen = {
        pair
        for batch in batches
        for pair in zip(batch["__origins__"], batch["__keys__"], strict=True)
    }
    expected = {(str(file), f"{n:09d}") for file in files for n in range(10)}
    assert seen == expected - {(str(files[1]), "000000005")}
    (example,) = report.examples.values()
    assert example.startswith(f"{files[1]}:5: image 'cut.jpg' stops after 300 bytes")
