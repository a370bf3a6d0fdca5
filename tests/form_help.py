"""One record read in its form, and what every other form's messages look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from neva_prep.dataprep.readers.form import reader_of
from neva_prep.dataprep.readers.llava import read_llava
from neva_prep.dataprep.readers.record_forms import form_of
from neva_prep.errors import RecordError

Talk = list[tuple[str, str]]
ASK, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


def read(row: Any, form: str = "") -> tuple[Talk, list[str], tuple[str, ...]]:
    """Turns, images and repairs of a record, in the form that it is taken for."""
    raw = json.dumps(row).encode()
    found = reader_of(form or form_of(row).read_as)(raw)
    assert read_llava(found.content).turns == found.record.turns
    talk = [(turn["from"], turn["value"]) for turn in json.loads(found.content)["conversations"]]
    return talk, list(found.record.images), found.repairs


def fault(row: Any, form: str = "") -> str:
    """Why a record is rejected."""
    with pytest.raises(RecordError) as caught:
        read(row, form)
    return caught.value.reason
