"""The HTML file: whole, valid, small, silent on the network, and harmless whatever is in it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_help import turns
from html_help import addresses, assert_nothing_runs, elements, parse, text_of
from loader_help import conversations, encoder, tokenizer
from made_views import PACK, TALK, batch, image, record, sample, stops, tokenized, tokens
from PIL import Image

from neva_prep.dataprep.look.excerpt import cut, mark_record
from neva_prep.dataprep.look.html import bars_of, token_blocks, visible
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.look.page import BATCH_WEIGHT, render_page, write_page
from neva_prep.dataprep.look.settings import LookSettings
from neva_prep.dataprep.look.tokens import view_tokens
from neva_prep.dataprep.look.view import Finding
from neva_prep.errors import ConfigError
from neva_prep.loaders import ImageConfig

HOSTILE = (
    "<script>alert(1)</script></div></article></html><img src=x onerror=alert(1)>"
    "[a](javascript:alert(1)) \u202egnp.exe\u202c \x1b[31mred\x1b]0;title\x07 \x00\ufffe\ufdd0"
    "'\"` {{ 7*7 }} &lt; <style>*{display:none}</style>"
)


def page(*entries: Any, batches: Any = (), max_bytes: int = 9_000_000) -> str:
    weight = len(entries) + BATCH_WEIGHT * len(batches)
    return render_page("shards", [], entries, batches, weight=weight, max_bytes=max_bytes)


def settings(**options: Any) -> LookSettings:
    return LookSettings(
        tokenizer=tokenizer(),
        images=ImageConfig(size=28, output="uint8"),
        num_image_embeddings_per_tile=4,
        **options,
    )


def test_the_file_is_valid_html_that_loads_nothing_and_runs_only_its_own_script() -> None:
    tree = parse(page(stops(), batches=[batch()]))
    for name, address in addresses(tree):
        assert address.startswith("data:image/" if name == "src" else "#")
    (style,), (script,) = elements(tree, "style"), elements(tree, "script")
    (meta,) = [m for m in elements(tree, "meta") if m.get("http-equiv")]
    policy = meta.get("content")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for element in (style, script):
        digest = hashlib.sha256(text_of(element).encode()).digest()
        assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert_nothing_runs(tree)


def test_hostile_text_is_text_wherever_it_stands() -> None:
    bad = record(HOSTILE, Finding(reason="bad_turn", message=HOSTILE, start=3, end=30))
    talk = sample(
        (HOSTILE, HOSTILE),
        id=HOSTILE,
        images=(image(HOSTILE, source=HOSTILE), image(error=HOSTILE)),
        fields={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
    )
    row = tokens((HOSTILE, "answer", 0, True), (HOSTILE, "answer", 0, True))
    entry = stops(
        record=bad, sample=talk, tokens=tokenized(row, error=HOSTILE, reason=HOSTILE), error=HOSTILE
    )
    text = page(entry, batches=[batch(row)])
    tree = parse(text)
    assert len(elements(tree, "script")) == len(elements(tree, "style")) == 1
    assert_nothing_runs(tree)
    for odd in ("\u202e", "\x1b", "\x00", "\x07", "\ufffe", "\ufdd0"):
        assert odd not in text
    (spoken,) = elements(tree, css="message")
    assert "<script>alert(1)</script>" in text_of(spoken)
    assert r"\u202egnp.exe" in text_of(spoken) and r"\x1b[31mred" in text_of(spoken)


def test_control_characters_are_set_apart_from_text_that_spells_them() -> None:
    assert visible("\x1b") == '<span class="esc">\\x1b</span>'
    assert visible("\\x1b<") == "\\x1b&lt;"
    assert visible("één\n猫\u200d") == "één\n猫\u200d"


def test_the_broken_place_of_a_record_is_marked() -> None:
    text = '{\n  "id": "cats-7",\n  "conversations": [{"from": "human", "value": ""}]\n}'
    start = text.index('""')
    finding = Finding(reason="empty_value", message="fill it", start=start, end=start + 2)
    entry = stops(record=record(text, finding), sample=None, tokens=None, error="turn 0 is empty")
    tree = parse(page(entry))
    (mark,) = elements(tree, "mark")
    assert (text_of(mark), mark.get("title")) == ('""', "fill it")
    (shown,) = elements(tree, css="json")
    assert text_of(shown) == text
    (article,) = elements(tree, "article")
    assert article.get("data-open") == "record"


def test_every_character_of_a_record_is_shown_once_whatever_is_marked() -> None:
    text = json.dumps({"a": [1, True, 'x\\"y', None], "b": {"c": -2.5e3}}, indent=1)
    for start in range(len(text)):
        for end in (start, start + 1, start + 7, len(text)):
            finding = Finding(reason="r", message="m", start=start, end=end)
            pieces = mark_record(text, [finding, finding], 1000)
            assert "".join(piece.text for piece in pieces) == text
            marked = "".join(piece.text for piece in pieces if piece.finding)
            assert marked == text[start : max(end, start + 1)]


def test_a_long_record_shows_its_beginning_and_its_broken_places() -> None:
    text = "a" * 50_000 + "BROKEN" + "b" * 50_000
    finding = Finding(reason="r", message="m", start=50_000, end=50_006)
    pieces = mark_record(text, [finding], 1000)
    assert [piece.text for piece in pieces if piece.finding] == ["BROKEN"]
    assert sum(len(piece.text) + piece.skipped for piece in pieces) == len(text)
    assert sum(len(piece.text) for piece in pieces) < 2000


def test_a_megabyte_of_message_is_cut_and_counted() -> None:
    whole = "word " * 200_000
    text = page(stops(sample=sample(("human", whole), ("gpt", "short"))))
    assert len(text) < 200_000
    parts = cut(whole, 2_400)
    assert len(parts.shown) + len(parts.more) + parts.left == len(whole)
    (rest,) = elements(parse(text), css="rest")
    assert f"{len(whole) - 2_400:,} more characters" in text_of(rest)
    assert f"{parts.left:,} characters after these" in text_of(rest)


def test_a_line_break_before_a_message_is_kept() -> None:
    (shown,) = elements(parse(page(stops(sample=sample(("human", "\n\nhi"))))), css="text")[:1]
    assert text_of(shown) == "\n\nhi"


def test_trained_tokens_are_marked_and_the_label_stands_below_the_token_before() -> None:
    tree = parse(page(stops()))
    (stream,) = elements(tree, css="stream")
    shown = elements(stream, css="k")
    assert [int(k.get("data-i")) for k in shown] == [token.id for token in TALK]
    trained = [k for run in elements(stream, css="tr") for k in elements(run, css="k")]
    assert [text_of(k) for k in trained] == ["▁Three", "</s>"]
    assert [k.get("data-y") for k in shown if k.get("data-l")] == ["▁Three", "</s>"]
    assert text_of(shown[2]) == "[576 × <image>]"
    whys = [text_of(why) for why in elements(stream, css="why")]
    assert whys == ["answer", "marked by the template"]


def test_tokens_stand_in_blocks_of_their_turns() -> None:
    blocks = token_blocks(TALK)
    assert [block.turn for block in blocks] == [None, 0, 1]
    assert [block.first for block in blocks] == [True, False, False]
    assert [token for block in blocks for run in block.runs for token in run.tokens] == list(TALK)


def test_bars_fill_the_row_without_gap_or_overlap() -> None:
    bars = [bar for bar in bars_of(PACK) if bar.css != "bar-trained"]
    ends = [(bar.x, bar.x + bar.width) for bar in bars]
    assert ends[0][0] == 0 and ends[-1][1] == pytest.approx(1000)
    for (_, end), (start, _) in pairwise(ends):
        assert start == pytest.approx(end)
    assert ends[0][1] == pytest.approx(583 / 2048 * 1000)
    assert sum("padding" in bar.css for bar in bars) == 2


def test_the_numbers_of_a_batch_stand_as_the_trainer_gets_them() -> None:
    view = batch()
    (table,) = elements(parse(page(batches=[view])), css="numbers")
    rows = [[text_of(cell) for cell in row] for row in elements(table, "tr")[1:]]
    assert len(rows) == len(TALK)
    for (position, number, _, label, _, loss, place, attends), token in zip(
        rows, TALK, strict=True
    ):
        assert (int(position), int(number), int(label)) == (token.position, token.id, token.label)
        assert (float(loss), int(place)) == (float(token.label != -100), token.position_id)
        assert attends == "1"


def test_what_is_long_shrinks_until_the_file_is_small_enough() -> None:
    row = tokens(*[(f"word{n} ", "content", 0, False) for n in range(4_000)])
    talk = sample(*[("human", "x" * 30_000)] * 5)
    entries = [stops(n, sample=talk, tokens=tokenized(row)) for n in range(10)]
    text = page(*entries, max_bytes=400_000)
    assert len(text.encode()) < 400_000
    assert "is not in this file" in text
    parse(text)


def test_fifty_samples_with_photos_are_below_10_mb(tmp_path: Path) -> None:
    from convert_help import convert_in

    rng = np.random.default_rng(0)
    photos: dict[str, bytes] = {}
    for number in range(10):
        file = io.BytesIO()
        noise = rng.integers(0, 255, (480, 640, 3), np.uint8)
        Image.fromarray(noise).save(file, "JPEG", quality=95)
        photos[f"{number}.jpg"] = file.getvalue()
    records = [
        {
            "id": f"r{number}",
            "image": f"{number % 10}.jpg",
            "conversations": turns("<image>" + "Why? " * 60, "Because. " * 60),
        }
        for number in range(50)
    ]
    made = convert_in(tmp_path, records, photos)
    out = tmp_path / "page.html"
    looks = LookSettings(tokenizer=tokenizer(), images=ImageConfig(output="uint8"))
    write_page(open_looked(made.out), out, count=50, settings=looks)
    assert 2_000_000 < out.stat().st_size < 10_000_000
    text = out.read_text("utf-8")
    assert text.count("<article") == 50 and text.count("<figure") == 50
    assert not list(tmp_path.glob("*.partial"))


def test_fifty_real_samples_are_valid_html(tmp_path: Path) -> None:
    looked = open_looked(conversations(tmp_path / "ds", train=50, shards=1, val=0))
    out = tmp_path / "page.html"
    write_page(looked, out, count=50)
    assert len(elements(parse(out.read_text("utf-8")), "article")) == 50


def test_the_file_shows_the_labels_of_the_encoder_and_the_batches(tmp_path: Path) -> None:
    looked = open_looked(conversations(tmp_path / "ds", train=16, shards=2, val=0))
    looks = settings(packed_sequence_size=256)
    out = tmp_path / "page.html"
    write_page(looked, out, count=3, start=2, settings=looks, batches=2)
    tree = parse(out.read_text("utf-8"))
    articles = elements(tree, "article")
    assert [article.get("id") for article in articles] == ["s2", "s3", "s4", "b0", "b1"]
    for index, article in zip((2, 3, 4), articles, strict=False):
        view = view_tokens(looked, index, encoder(packed=True))
        (stream,) = elements(article, css="stream")
        labels = [int(k.get("data-l", -100)) for k in elements(stream, css="k")]
        assert labels == [token.label for token in view.tokens]
        assert any(label != -100 for label in labels)


def test_a_source_with_a_broken_record_shows_why_there_is_no_sample(tmp_path: Path) -> None:
    from convert_help import make_source, record, text_record

    source = make_source(
        tmp_path, [text_record("fine"), record("bad", conversations=turns("<image>\nWhy?", ""))]
    )
    looked = open_looked(source, images=tmp_path / "images")
    out = tmp_path / "page.html"
    write_page(looked, out, count=10)
    fine, bad = elements(parse(out.read_text("utf-8")), "article")
    assert (fine.get("data-open"), bad.get("data-open")) == ("sample", "record")
    assert "empty_value" in text_of(bad)
    assert not elements(fine, css="stream")


def test_a_start_behind_the_end_is_an_error(tmp_path: Path) -> None:
    looked = open_looked(conversations(tmp_path / "ds", train=4, shards=1, val=0))
    with pytest.raises(ConfigError, match="no record 4; it has 4"):
        write_page(looked, tmp_path / "page.html", count=1, start=4)
    assert not (tmp_path / "page.html").exists()
