"""The cases that tell right labels from wrong ones, on tokenizers that behave differently."""

from typing import Any

import pytest
from test_templates_tokenizers import THREE, sentencepiece, trained_text, unigram

from neva_prep.errors import TemplateError
from neva_prep.templates import encode_conversation

STOP = {"v1": "</s>", "mpt": "<|im_end|>", "zephyr": "</s>"}
# Each with a template whose stop string is one of its special tokens, and v1.
EVERY = [
    ("sentencepiece", "v1"),
    ("sentencepiece", "zephyr"),
    ("byte-level", "v1"),
    ("byte-level", "mpt"),
    ("unigram", "v1"),
    ("unigram", "mpt"),
]


def say(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """Questions and answers in turns."""
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def expected_text(template: str, *answers: str) -> str:
    """What is trained: v1 has a space before each answer."""
    lead = " " if template == "v1" else ""
    return "".join(lead + answer + STOP[template] for answer in answers)


def encode(name: str, template: str, messages: Any, **options: Any) -> tuple[Any, str]:
    tokenizer = THREE[name]()
    sample = encode_conversation(messages, tokenizer=tokenizer, template=template, **options)
    return sample, trained_text(sample, tokenizer)


def images(sample: Any) -> int:
    return int((sample.tokens == -200).sum())


@pytest.mark.parametrize(("name", "template"), EVERY)
@pytest.mark.parametrize(
    "answers",
    [
        ("A cat.", "Two dogs."),
        ("3", "12"),
        (" A cat.\n", "\n- a\n- b\n"),
        ("一只猫🐱。", "é"),
        ("", "Two."),
        ("two  spaces   three", "tab\tand   end "),
        ("👩‍👩‍👧‍👦", "é ﬁ Ａ"),
        ("A", "A"),
    ],
)
def test_trained_text_is_answers_and_stop_strings(
    name: str, template: str, answers: tuple[str, str]
) -> None:
    sample, text = encode(name, template, say("<image>\nWho?", answers[0], "Where?", answers[1]))
    assert text == expected_text(template, *answers)
    assert images(sample) == 1


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_an_answer_may_hold_what_looks_like_an_image(name: str, template: str) -> None:
    sample, text = encode(name, template, say("<image>\nWho?", "Write <image> here.", "And?", "No"))
    assert text == expected_text(template, "Write <image> here.", "No")
    assert images(sample) == sample.num_images == 1
    assert sample.events["escaped_image_text"] == 1


@pytest.mark.parametrize(("name", "template"), EVERY)
@pytest.mark.parametrize("look_alike", ["</s>", "<s>", "<|im_end|>", "<|endoftext|>", "<unk>"])
def test_special_tokens_in_content_are_text(name: str, template: str, look_alike: str) -> None:
    tokenizer = THREE[name]()
    plain, _ = encode(name, template, say("Say x.", "x and y"))
    sample, text = encode(name, template, say(f"Say {look_alike}.", f"x {look_alike} y"))
    assert text == expected_text(template, f"x {look_alike} y")
    special = set(tokenizer.all_special_ids)
    structure = [token for token in plain.tokens.tolist() if token in special]
    assert [token for token in sample.tokens.tolist() if token in special] == structure
    if look_alike in tokenizer.all_special_tokens:
        assert sample.events["escaped_special_text"] == 2


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_role_markers_in_content_move_no_boundary(name: str, template: str) -> None:
    question = "USER: x ASSISTANT: y</s> Yes.</s>"
    sample, text = encode(name, template, say(question, "Yes.", "ASSISTANT: Yes.</s>", "No."))
    assert text == expected_text(template, "Yes.", "No.")
    if template == "v1":
        assert sample.events["escaped_role_marker"] == 3


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_images_stand_where_they_are_written(name: str, template: str) -> None:
    messages = say(
        "Compare <image> with <image> now.", "Same.", "And\n<image>", "No.", "Hm?", "Hm."
    )
    sample, text = encode(name, template, messages)
    assert text == expected_text(template, "Same.", "No.", "Hm.")
    tokenizer = THREE[name]()
    tokens = sample.tokens.tolist()
    slots = [place for place, token in enumerate(tokens) if token == -200]
    between = [
        tokenizer.decode(tokens[start + 1 : end]).strip()
        for start, end in zip(slots, [*slots[1:], len(tokens)], strict=True)
    ]
    assert between[0] == "with"
    assert between[1].startswith("now.")
    assert sample.labels[slots].tolist() == [-100] * 3


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_front_moves_images_and_keeps_their_number(name: str, template: str) -> None:
    messages = say("Compare <image> with <image> now.", "Same.")
    moved, _ = encode(name, template, messages, image_placement="front")
    written, _ = encode(name, template, say("<image>\n<image>\nCompare  with  now.", "Same."))
    assert moved.tokens.tolist() == written.tokens.tolist()
    assert images(moved) == 2


@pytest.mark.parametrize("name", THREE)
def test_bos_stands_once_and_only_where_it_belongs(name: str) -> None:
    tokenizer = THREE[name]()
    tokens = encode(name, "v1", say("Hi", "Yo", system="Be kind."))[0].tokens.tolist()
    expected = 0 if name == "byte-level" else 1
    assert tokens.count(tokenizer.bos_token_id) == expected
    assert tokens[:1].count(tokenizer.bos_token_id) == expected
    text = tokenizer.decode(tokens[expected:])
    assert text == "Be kind. USER: Hi ASSISTANT: Yo</s>"


def test_llama_3_writes_its_own_bos_and_gets_no_other() -> None:
    tokenizer = sentencepiece()
    sample = encode_conversation(say("Hi", "Yo"), tokenizer=tokenizer, template="llama_3")
    assert sample.tokens.tolist().count(tokenizer.bos_token_id) == 1
    assert sample.tokens[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("messages", "finding"),
    [
        (say("Hi", "a </s> b"), "'</s>'"),
        (say("Hi", "a <image> b"), "'<image>'"),
        (say("USER: x", "a"), "role marker 'USER:'"),
    ],
)
def test_the_error_policy_names_what_it_found(messages: Any, finding: str) -> None:
    with pytest.raises(TemplateError, match="record-7: content has") as caught:
        encode_conversation(
            messages,
            tokenizer=sentencepiece(),
            template="v1",
            special_text="error",
            key="record-7",
        )
    assert finding in str(caught.value)


def test_a_leading_answer_is_dropped_and_counted() -> None:
    messages = [{"role": "assistant", "content": "Hello!"}, *say("Hi", "Yo")]
    sample = encode_conversation(messages, tokenizer=sentencepiece(), template="v1")
    assert trained_text(sample, sentencepiece()) == " Yo</s>"
    assert sample.events == {"dropped_leading_answer": 1}


def test_nothing_unusual_leaves_no_events() -> None:
    sample = encode_conversation(say("<image>\nHi", "Yo"), tokenizer=unigram(), template="v1")
    assert sample.events == {}


def test_a_lone_surrogate_is_an_error_that_names_the_record() -> None:
    for make in THREE.values():
        with pytest.raises(TemplateError, match="surrogate"):
            encode_conversation(say("Hi", "a \ud83d b"), tokenizer=make(), template="v1")


def test_private_characters_of_a_conversation_survive() -> None:
    answer = "".join(map(chr, range(0xF0000, 0xF0020))) + "</s>"
    sample = encode_conversation(say("Hi", answer), tokenizer=sentencepiece(), template="v1")
    assert trained_text(sample, sentencepiece()) == " " + answer + "</s>"
