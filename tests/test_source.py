"""Where records begin and end is proven for any JSON, and damage is named by its byte."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from convert_help import record
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neva_prep.dataprep.source import open_source
from neva_prep.errors import RecordError
from neva_prep.loaders import spans as spans_module

TRICKY = [
    '}, {"id"',
    '"}, {"id": "',
    "}, {",
    "]",
    "[{",
    "\\",
    '\\"',
    "\\u0000",
    "é😀\u2028",
    "\ud83d",
]
texts = st.one_of(st.sampled_from(TRICKY), st.text(max_size=6))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
# Records as they come: the same fields in the same order; fields in any order; no records at all.
like_records = st.fixed_dictionaries({"id": texts, "conversations": values})
loose_records = st.dictionaries(st.sampled_from(["id", "image", "x"]) | texts, values, max_size=3)
lists = st.one_of(
    st.lists(like_records, min_size=1, max_size=12),
    st.lists(st.one_of(like_records, loose_records, values), min_size=1, max_size=12),
)
spaces = st.text(alphabet=" \t\r\n", max_size=3)
WINDOWS = [24, 64, 200, spans_module.WINDOW_BYTES]
quick = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "source.json"


def spans_of(file: Path, content: bytes, window: int = spans_module.WINDOW_BYTES) -> list[bytes]:
    """The records that a source is split into, with windows of a size."""
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        # The first window is small, and the next ones grow.
        patch.setattr(spans_module, "FIRST_WINDOW_BYTES", 24)
        patch.setattr(spans_module, "WINDOW_BYTES", window)
        return [
            content[span.offset : span.offset + span.length] for span in open_source(file).spans()
        ]


@quick
@given(
    records=lists,
    indent=st.sampled_from([None, 0, 1, 2, "\t"]),
    is_ascii=st.booleans(),
    gaps=st.lists(spaces, min_size=3, max_size=3),
    window=st.sampled_from(WINDOWS),
)
@example([{"a": 1}, {"a": 1}], None, True, ["", "", ""], 24)
@example([{"id": "}, {"}] * 9, None, True, ["", "", ""], 24)
@example([12345678901234567890] * 9, None, True, ["", "", ""], 24)
def test_spans_of_an_array_are_its_records_one_by_one(
    file: Path, records: list[Any], indent: Any, is_ascii: bool, gaps: list[str], window: int
) -> None:
    parts = [
        json.dumps(row, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
        for row in records
    ]
    before, between, after = (gap.encode() for gap in gaps)
    separator = before + b"," + between
    content = after + b"[" + before + separator.join(parts) + after + b"]" + between
    assert spans_of(file, content, window) == parts


@quick
@given(
    records=st.lists(st.one_of(like_records, values), min_size=1, max_size=8),
    ends=st.lists(st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n", " \r\n "]), min_size=8),
)
def test_spans_of_lines_are_their_records_one_by_one(
    file: Path, records: list[Any], ends: list[str]
) -> None:
    parts = [b'{"id": 0}', *(json.dumps(row).encode() for row in records)]
    content = b"".join(part + end.encode() for part, end in zip(parts, ["\n", *ends], strict=False))
    assert spans_of(file.with_suffix(".jsonl"), content) == parts


@quick
@given(
    records=lists,
    share=st.floats(0, 1, exclude_max=True),
    indent=st.sampled_from([None, 2]),
    window=st.sampled_from(WINDOWS),
)
def test_an_array_cut_anywhere_is_an_error_at_a_byte_and_gives_only_true_records(
    file: Path, records: list[Any], share: float, indent: Any, window: int
) -> None:
    whole = json.dumps(records, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    parts = spans_of(file, whole)
    stop = int(share * len(whole))
    check_cut(file, whole, parts, stop, window)


def check_cut(file: Path, whole: bytes, parts: list[bytes], stop: int, window: int) -> None:
    file.write_bytes(whole[:stop])
    seen: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        # The first window is small, and the next ones grow.
        patch.setattr(spans_module, "FIRST_WINDOW_BYTES", 24)
        patch.setattr(spans_module, "WINDOW_BYTES", window)
        with pytest.raises(RecordError) as caught:
            for span in open_source(file).spans():
                seen.append(whole[span.offset : span.offset + span.length])
    assert seen == parts[: len(seen)]
    message = str(caught.value)
    if stop:
        place = re.search(r"byte (\d+)", message)
        assert place and 0 < int(place[1]) <= stop, message
        assert "cut off" in message, message
        # The place is the end of the file, or where the value begins that the end cuts.
        rest = whole[int(place[1]) : stop]
        assert re.fullmatch(rb'\s*|[\w.+\\-]+|".*', rest, re.DOTALL), message
        assert f"record {len(seen)} " in message or f"after record {len(seen) - 1} " in message
    else:
        assert "is empty" in message


def test_every_cut_of_a_small_array_is_an_error_that_names_the_byte(file: Path) -> None:
    records = [
        {"id": "a", "n": [1.5, -2e9, True, None], "t": 'é \\ " \ud83d'},
        {"id": "}, {", "n": []},
    ]
    for text in (json.dumps(records), json.dumps(records, indent=1)):
        whole = text.encode()
        parts = spans_of(file, whole)
        for stop in range(len(whole)):
            check_cut(file, whole, parts, stop, 16 if stop % 2 else spans_module.WINDOW_BYTES)


def test_records_may_be_larger_than_the_window(file: Path) -> None:
    large = {"id": "large", "text": "}, {" * (5 << 18)}
    parts = [json.dumps(row).encode() for row in (record("a"), large, record("b"), large, [large])]
    assert len(parts[1]) > spans_module.WINDOW_BYTES
    assert spans_of(file, b"[" + b",\n".join(parts) + b"]") == parts


def test_first_field_may_differ_from_record_to_record(file: Path) -> None:
    rows = [dict([(f"field {n}", n), *record("a").items()]) for n in range(400)]
    parts = [json.dumps(row).encode() for row in rows]
    for window in (64, 3000, spans_module.WINDOW_BYTES):
        assert spans_of(file, b"[" + b", ".join(parts) + b"]", window) == parts


def test_number_of_ten_thousand_digits_and_deep_but_sound_records_are_split(file: Path) -> None:
    parts = [b'{"n": ' + b"7" * 10_000 + b"}", b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}", b"{}"]
    for window in WINDOWS:
        assert spans_of(file, b"[" + b",".join(parts) + b"]", window) == parts


def test_byte_of_a_break_is_named_wherever_it_is_among_many_records(file: Path) -> None:
    parts = [json.dumps(record(f"record {n}")).encode() for n in range(300)]
    for number in (0, 1, 150, 298, 299):
        broken = [
            *parts[:number],
            parts[number].replace(b'"image":', b'"image";'),
            *parts[number + 1 :],
        ]
        content = b"[" + b", ".join(broken) + b"]"
        for window in (64, 5000, spans_module.WINDOW_BYTES):
            with pytest.raises(RecordError, match=f"byte {content.index(b';')}: record {number} "):
                spans_of(file, content, window)


def test_a_source_whose_reading_is_interrupted_can_be_closed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the traceback would hold the mapped file, and closing it would hide the Ctrl-C."""

    class Interrupted:
        def finditer(self, text: Any, *place: int) -> Any:
            held = memoryview(text)
            raise KeyboardInterrupt(len(held))

    file.write_text(json.dumps([record("a"), record("b")]))
    source = open_source(file)
    monkeypatch.setattr(re, "compile", lambda *_: Interrupted())
    with pytest.raises(KeyboardInterrupt) as raised:
        list(source.spans())
    source.data.close()
    assert raised.value.args[0] > 0
