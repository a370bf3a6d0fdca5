"""The tokens that are shown are those of training, with the reasons of their labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_help import make_source, record, text_record, turns
from handmade import members, picture, write_dataset
from loader_help import EMBEDDINGS, encoder, tokenizer, typed_dataset
from test_look_open import TYPED

from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.look.tokens import view_messages, view_sample_tokens, view_tokens
from neva_prep.dataprep.look.view import TokensView
from neva_prep.loaders import EncodedText, ImageConfig
from neva_prep.loaders.encoded import length, shift
from neva_prep.templates import (
    ConversationTemplate,
    encode_conversation,
    get_template,
    list_templates,
)

TALK = [
    {"from": "human", "value": "Is <image>\na <image> cat? USER: no"},
    {"from": "gpt", "value": "Yes <image>, A cat.</s>"},
    {"from": "human", "value": "一只猫🐱?"},
    {"from": "gpt", "value": "12"},
]


def check_equal(view: TokensView, sample: Any, made: Any) -> None:
    """What is shown, against what the encoder gives to training."""
    prepared = made.preencode_sample(sample)
    encoded, rows = prepared.encoded, made.preparer.rows
    assert view.error is None and view.reason is None
    assert [token.id for token in view.tokens] == encoded.tokens.tolist()
    assert [token.id if token.trained else -100 for token in view.tokens] == encoded.labels.tolist()
    tokens, labels = shift(encoded, rows)
    assert [token.label for token in view.tokens[: len(tokens)]] == labels.tolist()
    assert all(token.label == -100 for token in view.tokens[len(tokens) :])
    tiles = iter(encoded.num_tiles.tolist())
    place = 0
    for number, token in enumerate(view.tokens):
        assert (token.position, token.position_id) == (number, place)
        size = next(tiles) * EMBEDDINGS if token.id == -200 else 1
        assert token.embeddings == size
        place += size
    assert view.length == length(encoded, rows) == prepared.length
    assert dict(view.events) == prepared.events
    spell = tokenizer().convert_ids_to_tokens
    for token in view.tokens:
        assert token.piece == ("<image>" if token.id == -200 else spell(token.id))
        assert token.label_piece == ("" if token.label == -100 else spell(token.label))
        assert token.trained == (token.rule in ("answer", "marked by the template"))


@pytest.mark.parametrize("name", list_templates())
@pytest.mark.parametrize("placement", ["keep", "front"])
def test_tokens_of_every_template_are_those_of_training(
    name: str, placement: Any, tmp_path: Path
) -> None:
    source = make_source(
        tmp_path, [record("a", image=["good.jpg", "good.jpg"], conversations=TALK)]
    )
    looked = open_looked(source, images=tmp_path / "images")
    made = encoder(template=get_template(name), image_placement=placement)
    view = view_tokens(looked, 0, made)
    check_equal(view, looked.encodable(0), made)
    assert view.template == name and view.num_trained
    # LLaVA's v0 also trains the mark before the first message.
    before = {None} if name == "v0" else set()
    assert {token.turn for token in view.tokens if token.trained} == {1, 3} | before


@pytest.mark.parametrize("sample_type", TYPED)
def test_tokens_of_every_sample_type_are_those_of_training(
    sample_type: str, tmp_path: Path
) -> None:
    field_map, sample, expected, _ = TYPED[sample_type]
    looked = open_looked(typed_dataset(tmp_path / "ds", sample_type, field_map, [sample]))
    made = encoder()
    view = view_tokens(looked, 0, made)
    check_equal(view, looked.encodable(0), made)
    assert sum(token.rule == "image" for token in view.tokens) == 1
    # Every text is told where it came from.
    said = "".join(token.text for token in view.tokens if token.turn == len(expected) - 1)
    assert expected[-1].text.removeprefix("<image>").split("<image>")[-1] in said


def test_tiles_of_a_large_image_are_counted(tmp_path: Path) -> None:
    big = [("000.jpg", picture(80, 30)), *members(0)[1:]]
    looked = open_looked(write_dataset(tmp_path / "ds", {"train-000000.tar": {"000000000": big}}))
    grid = ImageConfig(size=28, fit="grid", grids=((28, 56), (28, 84)), output="uint8")
    made = encoder(images=grid)
    view = view_tokens(looked, 0, made)
    check_equal(view, looked.encodable(0), made)
    assert [t.embeddings for t in view.tokens if t.rule == "image"] == [4 * EMBEDDINGS]


def test_the_reason_of_each_token_is_that_of_its_place(tmp_path: Path) -> None:
    looked = open_looked(make_source(tmp_path, [text_record("a", "A cat.", "A cat.")]))
    view = view_tokens(looked, 0, encoder(template=get_template("v1")))
    told = [(token.piece, token.rule, token.turn) for token in view.tokens]
    assert told[0] == ("<s>", "bos", None)
    assert told[-11:] == [
        ("▁A", "content", 0),
        ("▁cat", "content", 0),
        (".", "content", 0),
        ("▁ASS", "template text", 0),
        ("IST", "template text", 0),
        ("ANT", "template text", 0),
        (":", "template text", 0),
        ("▁A", "answer", 1),
        ("▁cat", "answer", 1),
        (".", "answer", 1),
        ("</s>", "marked by the template", 1),
    ]
    assert "".join(token.text for token in view.tokens[1:]).endswith("ASSISTANT: A cat.</s>")


@pytest.mark.parametrize("overflow", ["error", "drop_last_turns", "truncate_answer"])
def test_a_sample_that_is_too_long_is_shown_as_training_treats_it(
    overflow: Any, tmp_path: Path
) -> None:
    talk = turns("Why?", "So. " * 4, "And?", "So. " * 30)
    looked = open_looked(make_source(tmp_path, [text_record("a", conversations=talk)]))
    made = encoder(overflow=overflow, seq_length=80, template=get_template("v1"))
    view = view_tokens(looked, 0, made)
    assert view.limit == 80
    if overflow != "error":
        check_equal(view, looked.encodable(0), made)
        assert view.length <= 80
        answers = {1} if overflow == "drop_last_turns" else {1, 3}
        assert {token.turn for token in view.tokens if token.trained} == answers
        return
    assert view.reason == "too_long" and "the limit is 81" in str(view.error)
    free = view_tokens(looked, 0, encoder(template=get_template("v1")))
    assert view.tokens == free.tokens and view.length == free.length > 80


def test_a_sample_that_its_tiles_make_too_long_is_shown_with_all_of_them(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": {"000000000": members(0, images=2)}})
    looked = open_looked(path)
    config = ImageConfig(size=14, fit="grid", grids=((28, 28),))
    free = view_tokens(looked, 0, encoder(images=config))
    assert free.error is None
    view = view_tokens(looked, 0, encoder(images=config, seq_length=free.length - 1))
    assert view.reason == "too_long" and view.length == free.length
    assert view.tokens == free.tokens


def test_images_of_a_conversation_alone_have_one_tile_whatever_the_fit() -> None:
    config = ImageConfig(size=14, fit="grid", grids=((28, 28),))
    view = view_messages(TALK, encoder(images=config, seq_length=200))
    assert view.error is None
    assert view.tokens == view_messages(TALK, encoder(seq_length=200)).tokens


def test_turns_that_are_dropped_do_not_blur_the_reasons_of_the_others(tmp_path: Path) -> None:
    """In this template the last turn is written otherwise, so a beginning is no prefix."""
    source = "{% for m in messages %}{% if loop.last %}END {% endif %}{{ m.content }} {% endfor %}"
    own = ConversationTemplate(name="own", chat_template=source)
    talk = turns("Why?", "So. " * 4, "And?", "So. " * 90)
    looked = open_looked(make_source(tmp_path, [text_record("a", conversations=talk)]))
    made = encoder(overflow="drop_last_turns", seq_length=40, template=own)
    view = view_tokens(looked, 0, made)
    assert [token.id for token in view.tokens] == made.preencode_sample(
        looked.encodable(0)
    ).encoded.tokens.tolist()
    assert "".join(token.text for token in view.tokens).startswith("Why? END So.")
    assert {token.turn for token in view.tokens if token.rule == "content"} == {0}


def test_a_sample_that_no_pack_can_hold_is_shown_with_its_tokens(tmp_path: Path) -> None:
    looked = open_looked(make_source(tmp_path, [text_record("a", "so " * 300, "x")]))
    view = view_tokens(looked, 0, encoder(packed=True))
    assert view.reason == "too_long" and len(view.tokens) > 300


def test_nothing_trained_is_shown(tmp_path: Path) -> None:
    asks = [{"role": "user", "content": "Why?"}, {"role": "user", "content": "Why not?"}]
    view = view_messages(asks, encoder())
    assert view.error is None and view.num_trained == 0 and len(view.tokens) > 5
    assert all(token.label == -100 for token in view.tokens)


def test_errors_are_shown_and_not_raised(tmp_path: Path) -> None:
    source = make_source(tmp_path, [record("a", image="none.jpg"), [], text_record("b")])
    looked = open_looked(source, images=tmp_path / "images")
    made = encoder()
    for _ in range(20):  # A stream of training would give up on so many in a row.
        assert view_tokens(looked, 0, made).reason == "missing_image"
    view = view_tokens(looked, 1, made)
    assert (view.reason, view.tokens, view.length) == ("not_an_object", (), 0)
    assert view_tokens(looked, 2, made).error is None
    # And the encoder that was lent for this is as it was.
    assert made.preencode_sample(looked.encodable(2)).encoded.key == "000000002"
    odd = view_messages([{"role": "narrator", "content": "x"}], made)
    assert "unknown role 'narrator'" in str(odd.error) and not odd.tokens


def test_images_that_do_not_fit_the_text_are_an_error_beside_the_tokens(tmp_path: Path) -> None:
    image, (name, data) = members(0)
    row = json.loads(data)
    shards = {"train-000000.tar": {"000000000": [image, (name, json.dumps(row).encode())]}}
    sample = open_looked(write_dataset(tmp_path / "ds", shards)).encodable(0)
    sample.images = []
    view = view_sample_tokens(sample, encoder())
    assert view.reason == "placeholder_mismatch"
    assert sum(token.rule == "image" for token in view.tokens) == 1


def test_an_encoder_of_the_user_is_shown_as_far_as_it_is_known(tmp_path: Path) -> None:
    looked = open_looked(make_source(tmp_path, [text_record("a", "Why?", "So.")]))

    def own(sample: Any, rules: Any) -> EncodedText:
        text = encode_conversation(
            [{"role": "user", "content": "Own"}, {"role": "assistant", "content": "way"}],
            tokenizer=rules.tokenizer,
            template="plain",
        )
        return EncodedText(text=text)

    made = encoder()
    made.register_encoder("ConversationSample", own)
    view = view_tokens(looked, 0, made)
    assert [token.id for token in view.tokens] == made.preencode_sample(
        looked.encodable(0)
    ).encoded.tokens.tolist()
    assert view.template == "" and {token.turn for token in view.tokens} == {None}
    assert np.any([token.trained for token in view.tokens])
