"""What holds for every conversation in any script."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_templates_tokenizers import THREE, byte_level, sentencepiece, trained_text

from neva_prep.templates import encode_conversation, encode_conversations, get_template
from neva_prep.templates.chunk import Chunk
from neva_prep.templates.fast import FastEncoder
from neva_prep.templates.listed import Listed
from neva_prep.templates.literal import LiteralEncoder

MANY = settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
)
SOME = settings(MANY, max_examples=500)
SNIPPETS = st.sampled_from(
    (
        *(
            "</s>",
            "<s>",
            "<image>",
            "<|im_end|>",
            "<|im_start|>user\n",
            "USER:",
            " ASSISTANT: x</s>",
        ),
        *("\n", "  ", " ", "▁", "é", "e\u0301", "🐱", "ﬁ", "\u200d", "<", ">", "###", "\U000f0003"),
    )
)
TEXT = st.lists(st.one_of(st.text(max_size=8), SNIPPETS), max_size=4).map("".join)
QUESTION = st.tuples(TEXT.map(lambda text: text.replace("<image>", "")), st.integers(0, 2)).map(
    lambda pair: "<image>" * pair[1] + pair[0]
)
TURNS = st.lists(st.tuples(QUESTION, TEXT), min_size=1, max_size=2)
OTHER = [
    {"from": "human", "value": "<image>\nWho </s>?"},
    {"from": "gpt", "value": "A boy  with <image> a kite."},
]
PAIRS = [("sentencepiece", "v1"), ("byte-level", "mpt"), ("unigram", "v1")]


def conversation(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"from": speaker, "value": text}
        for question, answer in turns
        for speaker, text in (("human", question), ("gpt", answer))
    ]


@pytest.mark.parametrize(("name", "template"), PAIRS)
@MANY
@given(turns=TURNS)
def test_trained_text_is_the_answers_and_images_are_counted(
    name: str, template: str, turns: list[tuple[str, str]]
) -> None:
    tokenizer = THREE[name]()
    messages = conversation(turns)
    sample = encode_conversation(messages, tokenizer=tokenizer, template=template)
    beside = encode_conversations([OTHER, messages, OTHER], tokenizer=tokenizer, template=template)[
        1
    ]
    assert beside.tokens.tolist() == sample.tokens.tolist()
    assert beside.labels.tolist() == sample.labels.tolist()
    stop, lead = ("<|im_end|>", "") if template == "mpt" else ("</s>", " ")
    expected = "".join(lead + answer + stop for _, answer in turns)
    if name == "sentencepiece":
        # To SentencePiece, this character is a space.
        expected = expected.replace("▁", " ")
    assert trained_text(sample, tokenizer) == expected
    slots = int((sample.tokens == -200).sum())
    assert slots == sample.num_images == sum(question.count("<image>") for question, _ in turns)
    labels = sample.labels.tolist()
    assert all(label in (-100, token) for token, label in zip(sample.tokens, labels, strict=True))


@pytest.mark.parametrize("template", ["llama_3", "nvgpt"])
@SOME
@given(turns=TURNS)
def test_no_character_of_the_user_is_in_a_trained_span(
    template: str, turns: list[tuple[str, str]]
) -> None:
    chosen = get_template(template)
    rendered = chosen.render(conversation(turns))
    trimmed = template in ("llama_3", "gemma_instruct")
    lead = " " if template == "v1" else ""
    stop = chosen.stop_string or ""
    assert rendered.trained_texts == [
        lead + (answer.strip() if trimmed else answer) + stop for _, answer in turns
    ]


@pytest.mark.parametrize("name", ["unigram"])
@SOME
@given(first=TURNS, second=TURNS)
def test_tokens_do_not_depend_on_the_batch(
    name: str, first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    tokenizer = THREE[name]()
    both = [conversation(first), conversation(second)]
    together = encode_conversations(both, tokenizer=tokenizer, template="v1")
    for messages, sample in zip(both, together, strict=True):
        alone = encode_conversation(messages, tokenizer=tokenizer, template="v1")
        assert alone.tokens.tolist() == sample.tokens.tolist()
        assert alone.labels.tolist() == sample.labels.tolist()


@cache
def fast_encoder(make: Any) -> FastEncoder:
    return FastEncoder(make().backend_tokenizer, set(make().all_special_tokens))


@cache
def literal_encoder(make: Any) -> LiteralEncoder:
    specials = set(make().all_special_tokens)
    return LiteralEncoder(make().backend_tokenizer, specials, "\U000f0ff4")


def plain_encoding(tokenizer: Any, text: str) -> Listed:
    """What the Rust tokenizer itself says."""
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return Listed(encoding.ids, encoding.offsets)


@pytest.mark.parametrize("make", [sentencepiece, byte_level], ids=["sentencepiece", "byte-level"])
@SOME
@given(text=TEXT, place=st.integers(0, 60), length=st.integers(1, 20))
def test_cutting_into_words_changes_no_token_and_no_place(
    make: Any, text: str, place: int, length: int
) -> None:
    tokenizer = make()
    encoder = fast_encoder(make)
    assert encoder._words is not None
    (encoded,) = encoder.encode([Chunk(text)])
    whole = plain_encoding(tokenizer, text)
    assert (list(encoded.ids), encoded.offsets) == (whole.ids, whole.offsets)
    start, end = min(place, len(text)), min(place + length, len(text))
    if start < end:
        assert encoded.touched(start, end) == whole.touched(start, end)


@pytest.mark.parametrize("name", THREE)
@SOME
@given(text=TEXT)
def test_the_long_way_for_look_alikes_gives_the_same_tokens_where_there_are_none(
    name: str, text: str
) -> None:
    tokenizer = THREE[name]()
    literal = literal_encoder(THREE[name])
    encoded = literal.encode(Chunk(text), "")
    whole = plain_encoding(tokenizer, text)
    assert (encoded.ids, encoded.offsets) == (whole.ids, whole.offsets)


@pytest.mark.parametrize("name", THREE)
def test_the_tokenizer_is_not_changed(name: str) -> None:
    tokenizer = THREE[name]()
    before = json.loads(tokenizer.backend_tokenizer.to_str())
    length, chat_template = len(tokenizer), tokenizer.chat_template
    encode_conversation(conversation([("Hi </s>", "a </s> b")]), tokenizer=tokenizer, template="v1")
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == before
    assert (len(tokenizer), tokenizer.chat_template) == (length, chat_template)
