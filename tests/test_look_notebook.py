"""Objects show themselves in notebooks; hostile text in them stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_help import convert_in, record, text_record
from encoded_samples import encoded
from handmade import members, picture, write_dataset
from loader_help import encoder, module
from test_look_pictures import bomb

from neva_prep.dataprep.look.batch import view_batches
from neva_prep.dataprep.look.open import open_looked
from neva_prep.loaders.encoded import RowConfig
from neva_prep.loaders.pack import build_pack
from neva_prep.loaders.sample import ConversationSample
from neva_prep.templates.sample import TokenizedSample
from neva_prep.templates.show_html import safe

EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(1)>\u202e\x1b]0;x\x07'


class Tags(HTMLParser):
    """What a browser would make of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def check_harmless(shown: str) -> Tags:
    tags = Tags(shown)
    assert "script" not in tags.names
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    for name, value in tags.attributes:
        if name in ("src", "href"):
            assert str(value).startswith("data:image/jpeg;base64,")
    assert not re.search("[\u202e\x1b\x07]", shown)
    return tags


def sample(images: list[bytes], **fields: Any) -> ConversationSample:
    given = {
        "id": EVIL,
        "messages": [{"from": EVIL, "value": EVIL}, {"role": "gpt", "content": "<image>"}],
        **fields,
    }
    keys = {"__key__": EVIL, "__restore_key__": (), "__subflavors__": {}}
    return ConversationSample(**keys, images=images, record={}, **given)


def test_a_sample_shows_its_conversation_and_its_images() -> None:
    tags = check_harmless(sample([picture(), b"<script>", bomb(20_000, 20_000)])._repr_html_())
    assert tags.names.count("img") == 1
    assert "known format" in tags.text and "400000000 pixels" in tags.text
    assert tags.text.count("<script>alert(1)</script>") == 4
    assert "\\u202e\\u001b]0;x\\u0007" in tags.text


def test_long_texts_and_many_parts_are_cut_and_counted() -> None:
    many = [{"from": "human", "value": "y" * 1_000_000}] * 300
    shown = sample([], messages=many)._repr_html_()
    assert "… and 998,000 more characters" in shown and "… and 200 more" in shown
    assert len(shown) < 300_000
    assert safe("a" * 10, 4) == "aaaa… and 6 more characters"


def test_tokens_show_which_are_trained() -> None:
    tokens, labels = np.array([1, -200, 7, 8, 2]), np.array([-100, -100, -100, 8, 2])
    shown = TokenizedSample(tokens=tokens, labels=labels, key=EVIL, num_images=1)._repr_html_()
    check_harmless(shown)
    marked = re.findall(r'<span style="[^"]*underline[^"]*">(-?\d+)</span>', shown)
    assert marked == ["8", "2"] and " 7 " in shown and "-200" in shown


def test_a_pack_shows_a_bar_of_its_samples() -> None:
    config = RowConfig(num_image_embeddings_per_tile=3, alignment=4)
    pack = build_pack([encoded(EVIL, [1, -200, 7, 8, 2]), encoded("b", [1, 5, 6, 2])], config)
    shown = pack._repr_html_()
    tags = check_harmless(shown)
    assert re.findall(r"flex:(\d+)", shown) == ["6", "2", "3", "1"]
    assert "12" in tags.text


def test_a_batch_is_a_page_that_cannot_reach_the_notebook(tmp_path: Path) -> None:
    shards = {
        "train-000000.tar": {f"{n:09d}": members(n, text=EVIL, images=n % 2) for n in range(6)}
    }
    path = write_dataset(tmp_path / "ds", shards)
    with module(path, task_encoder=encoder()) as data:
        view = next(view_batches(data, open_looked(path)))
    frame = Tags(view._repr_html_())
    attributes = dict(frame.attributes)
    assert frame.names == ["iframe"] and attributes["sandbox"] == "allow-scripts"
    page = Tags(str(attributes["srcdoc"]))
    assert "onerror" not in {name for name, _ in page.attributes}
    assert page.names.count("script") == 1, "its own"
    check_harmless(view.rows[0].pack._repr_html_())


@pytest.mark.parametrize("name", [EVIL, "plain"])
def test_a_report_shows_reasons_with_an_example(name: str, tmp_path: Path) -> None:
    done = convert_in(tmp_path, [text_record("a"), record(name, image="none.jpg")])
    tags = check_harmless(done.report._repr_html_())
    assert "missing_image: 1" in tags.text and "none.jpg" in tags.text
    assert "train" in tags.text
