"""Rows of a question and an answer, or of an image and a caption: what they say is what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from convert_help import convert_in

NUMBERS = ["1.10", "0.00001", "1E5", "-0", "3", "123456789012345678901234567890", "1e999"]


@pytest.mark.parametrize("field", ["answer", "short_answer"])
def test_answer_that_is_a_number_keeps_its_text(tmp_path: Path, field: str) -> None:
    rows = ",".join(f'{{"question": "Q", "{field}": {n} , "image": "good.jpg"}}' for n in NUMBERS)
    converted = convert_in(tmp_path, f"[{rows}]".encode())
    said = [record["conversations"][1]["value"] for record in converted.records.values()]
    assert said == NUMBERS
