"""OBELICS and MMC4: texts and images in the order of the source, everything else told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from convert_help import Row, convert_in, read_samples
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.readers.interleaved import is_mmc4, is_obelics, read_mmc4, read_obelics
from neva_prep.dataprep.verify import verify
from neva_prep.errors import RecordError

IMAGES = {f"{n}.png": picture(10 + n, 10, "PNG") for n in range(4)}

OBELICS: list[Row] = [
    {
        "images": ["0.png", None, None, "1.png", None],
        "metadata": '[{"alt": "x"}, null]',
        "general_metadata": '{"url": "http://x/"}',
        "texts": [None, "One.\n\nOne and a half.", "Two ✓", None, "Three."],
    },
    {"images": [None, "2.png"], "texts": ["Four.", None]},
]
MMC4: list[Row] = [
    {
        "url": "http://x/",
        "text_list": ["One.", "Two.", "Three."],
        "image_info": [
            {"image_name": "2.png", "matched_text_index": 2, "matched_sim": 0.30, "raw_url": "u"},
            {"image_name": "0.png", "matched_text_index": 0, "matched_sim": 0.25, "raw_url": "v"},
        ],
        "similarity_matrix": [[0.1, 0.2, 0.30], [0.25, 1e-3, 0]],
        "could_have_url_duplicate": 0,
    },
    {
        "text_list": ["Both."],
        "image_info": [
            {"image_name": name, "matched_text_index": 0, "matched_sim": 0.5}
            for name in ("1.png", "3.png")
        ],
    },
]


def lines(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def pieces(raw: Row) -> list[str]:
    """Texts and image names of a row in their order, told from the row itself."""
    if "texts" in raw:
        return [t if t is not None else i for t, i in zip(raw["texts"], raw["images"], strict=True)]
    found = []
    for place, text in enumerate(raw["text_list"]):
        matched = [one for one in raw["image_info"] if one["matched_text_index"] == place]
        found += [*(one["image_name"] for one in matched), text]
    return found


@pytest.mark.parametrize("rows", [OBELICS, MMC4], ids=["obelics", "mmc4"])
@pytest.mark.parametrize("as_lines", [False, True])
def test_documents_become_rows_of_texts_and_images(
    rows: list[Row], as_lines: bool, tmp_path: Path
) -> None:
    source = lines(rows) if as_lines else json.dumps(rows).encode()
    done = convert_in(tmp_path, source, IMAGES, layout="interleaved")
    assert done.report.rejections == {}
    looked = open_looked(done.out)
    names = {content: name for name, content in IMAGES.items()}
    for index, row in enumerate(rows):
        sequence = looked.encodable(index).sequence
        found = [part if isinstance(part, str) else names[part] for part in sequence]
        assert found == pieces(row)
        kept = done.records[f"{index:09d}"]
        moved = {"texts", "images", "text_list", "similarity_matrix"}
        assert {k: kept[k] for k in row if k not in moved} == {
            k: row[k] for k in row if k not in moved
        }
    assert verify(done.out).is_whole


def test_similarities_follow_the_images(tmp_path: Path) -> None:
    done = convert_in(tmp_path, lines(MMC4), IMAGES, layout="similarity")
    assert [row["reason"] for row in done.rows] == ["unfit_layout"]
    assert "another image follows" in done.rows[0]["message"]
    sample = open_looked(done.out).encodable(0)
    assert sample.images == [IMAGES["0.png"], IMAGES["2.png"]]
    assert sample.texts == ["One.", "Two.", "Three."]
    assert sample.matched_text_indices == [0, 2]
    assert sample.similarity_matrix.tolist() == pytest.approx(
        [pytest.approx([0.25, 1e-3, 0]), pytest.approx([0.1, 0.2, 0.3])]
    )
    (member,) = read_samples(done.out).values()
    assert b'"similarity_matrix":[[0.25, 0.001, 0],[0.1, 0.2, 0.3]]' in member["json"]


def test_fields_keep_their_very_text(tmp_path: Path) -> None:
    lists = b'"texts": ["a", null], "images": [null, "0.png"]'
    content = read_obelics(b'{%b, "n": 1.10, "big": 1e400, "o": {"x":  1}}' % lists).content
    for text in (b'"n":1.10', b'"big":1e400', b'"o":{"x":  1}'):
        assert text in content


def test_documents_are_told_from_other_records() -> None:
    assert all(map(is_obelics, OBELICS)) and all(map(is_mmc4, MMC4))
    assert not any(map(is_obelics, MMC4)) and not any(map(is_mmc4, OBELICS))
    talk: Row = {"conversations": [], "texts": [], "images": []}
    assert not is_obelics(talk) and not is_mmc4(talk)


def test_the_original_record_is_retried(tmp_path: Path) -> None:
    rows = [*OBELICS, {"texts": ["x", None], "images": [None, "gone.png"]}]
    done = convert_in(tmp_path, lines(rows), IMAGES, layout="interleaved")
    assert done.rows[0]["reason"] == "missing_image" and done.rows[0]["record"] == rows[2]


BAD: dict[str, tuple[Any, Any, str]] = {
    "lengths": (read_obelics, {"texts": ["a"], "images": []}, "bad_document"),
    "both": (read_obelics, {"texts": ["a"], "images": ["b"]}, "bad_document"),
    "number": (read_obelics, {"texts": [1], "images": [None]}, "bad_document"),
    "own image": (
        read_obelics,
        {"texts": ["a"], "images": [None], "image": "x"},
        "field_conflict",
    ),
    "mark": (read_obelics, {"texts": ["<image>"], "images": [None]}, "literal_placeholder"),
    "no json": (read_obelics, b'{"texts": [', "invalid_json"),
    "no utf-8": (read_obelics, b'{"texts": ["\xff"], "images": [null]}', "invalid_utf8"),
    "no object": (read_mmc4, [1], "not_an_object"),
    "outside": (
        read_mmc4,
        {"text_list": ["a"], "image_info": [{"image_name": "x", "matched_text_index": 1}]},
        "bad_document",
    ),
    "matrix": (read_mmc4, {**MMC4[0], "similarity_matrix": [[1, 2, 3]]}, "bad_document"),
    "matrix of texts": (
        read_mmc4,
        {**MMC4[0], "similarity_matrix": [["a"], ["b"]]},
        "bad_document",
    ),
    "no name": (
        read_mmc4,
        {"text_list": ["a"], "image_info": [{"matched_text_index": 0}]},
        "bad_document",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told(name: str) -> None:
    read, row, reason = BAD[name]
    with pytest.raises(RecordError) as caught:
        read(row if isinstance(row, bytes) else json.dumps(row).encode())
    assert caught.value.reason == reason


def test_workers_make_the_same_bytes(tmp_path: Path) -> None:
    done = convert_in(tmp_path, lines(MMC4 * 10), IMAGES, layout="interleaved", shard_count=3)
    options = ConvertOptions(layout="interleaved", shard_count=3, workers=2)
    convert(tmp_path / "source.json", tmp_path / "images", tmp_path / "two", options)
    for path in sorted(done.out.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(done.out)).read_bytes()
