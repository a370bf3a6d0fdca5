"""Rows of a question and an answer, or of an image and a caption: what they say is what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from convert_help import convert_in, reasons_of
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.doctor.doctor import doctor

NUMBERS = ["1.10", "0.00001", "1E5", "-0", "3", "123456789012345678901234567890", "1e999"]


@pytest.mark.parametrize("field", ["answer", "short_answer"])
def test_answer_that_is_a_number_keeps_its_text(tmp_path: Path, field: str) -> None:
    rows = ",".join(f'{{"question": "Q", "{field}": {n} , "image": "good.jpg"}}' for n in NUMBERS)
    converted = convert_in(tmp_path, f"[{rows}]".encode())
    said = [record["conversations"][1]["value"] for record in converted.records.values()]
    assert said == NUMBERS


NO_IMAGE: list[Any] = [None, "", [], [None], {"path": None, "bytes": None}, {"width": 3}, ...]


@pytest.mark.parametrize("image", NO_IMAGE)
def test_caption_without_an_image_is_rejected(tmp_path: Path, image: Any) -> None:
    rows = [{"id": "a", "image": "good.jpg", "caption": "red"}, {"id": "b", "caption": "green"}]
    if image is not ...:
        rows[1]["image"] = image
    converted = convert_in(tmp_path, rows)
    assert reasons_of(converted) == {"b": "missing_image"}
    assert "record 1 (id 'b'): has a caption and no image; " in converted.rows[0]["message"]
    assert doctor(tmp_path / "source.json", tmp_path / "images").faults[0].records == 1


def test_question_and_answer_need_no_image(tmp_path: Path) -> None:
    rows = [{"image": None, "question": "Why?", "answer": "So."}, {"query": "a", "response": "b"}]
    for number, row in enumerate(rows):
        assert convert_in(tmp_path / str(number), [row]).report.samples == 1


def test_caption_in_a_table_needs_its_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture())
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,red\n,green\n")
    cells = [{"image": {"bytes": picture()}, "caption": "red"}, {"image": None, "caption": "green"}]
    pq.write_table(pa.Table.from_pylist(cells), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        report = convert(tmp_path / name, None, tmp_path / f"{name}.out")
        assert (report.samples, report.rejections) == (1, {"missing_image": 1})
