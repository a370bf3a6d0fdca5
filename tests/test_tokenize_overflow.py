"""Too long conversations are refused, shortened by turns or cut, and that is always reported."""

import pytest
from test_templates_tokenizers import sentencepiece, trained_text

from neva_prep.errors import ConfigError, PackError
from neva_prep.templates import TokenizedSample, encode_conversation

MESSAGES = [
    {"role": "user", "content": "<image>\nWho?"},
    {"role": "assistant", "content": "A boy with a kite."},
    {"role": "user", "content": "And here? <image>"},
    {"role": "assistant", "content": "A girl with a dog."},
]


def encode(**options: object) -> TokenizedSample:
    return encode_conversation(
        MESSAGES,
        tokenizer=sentencepiece(),
        template="v1",
        key="k1",
        **options,  # type: ignore[arg-type]
    )


def length(sample: TokenizedSample, embeddings: int = 576) -> int:
    images = int((sample.tokens == -200).sum())
    return len(sample.tokens) + images * (embeddings - 1)


def test_a_limit_that_fits_changes_nothing() -> None:
    whole = encode()
    same = encode(max_length=length(whole))
    assert same.tokens.tolist() == whole.tokens.tolist()
    assert same.events == {}


def test_error_is_the_default_and_names_key_length_and_limit() -> None:
    whole = length(encode())
    with pytest.raises(PackError, match=f"'k1' has {whole} tokens .* limit is {whole - 1}"):
        encode(max_length=whole - 1)


def test_images_are_counted_with_their_embeddings() -> None:
    few = length(encode(), embeddings=10)
    assert encode(max_length=few, image_embeddings=10).num_images == 2
    with pytest.raises(PackError):
        encode(max_length=few, image_embeddings=11)


def test_turns_are_dropped_from_the_end_with_their_images() -> None:
    sample = encode(max_length=length(encode()) - 1, overflow="drop_last_turns")
    assert trained_text(sample, sentencepiece()) == " A boy with a kite.</s>"
    assert sample.num_images == int((sample.tokens == -200).sum()) == 1
    assert sample.events == {"dropped_turns": 2, "dropped_images": 1}


def test_an_answer_is_cut_inside_and_loses_its_stop_token() -> None:
    whole = encode()
    sample = encode(max_length=length(whole) - 3, overflow="truncate_answer")
    assert sample.tokens.tolist() == whole.tokens.tolist()[:-3]
    assert trained_text(sample, sentencepiece()) == " A boy with a kite.</s> A girl with a"
    assert sample.events == {"truncated_answer": 1, "dropped_tokens": 3}


def test_a_cut_never_leaves_a_question_or_an_image_at_the_end() -> None:
    whole = encode()
    answer_end = whole.labels.tolist().index(2) + 1
    second_image = [i for i, token in enumerate(whole.tokens) if token == -200][1]
    for limit in range(answer_end + 575, second_image + 1 + 575 * 2):
        sample = encode(max_length=limit, overflow="truncate_answer")
        assert len(sample.tokens) == answer_end
        assert sample.labels[-1] == 2
        assert sample.num_images == 1
        assert sample.events["dropped_images"] == 1
        assert "truncated_answer" not in sample.events


def test_a_trained_mark_of_a_question_is_no_answer_to_end_in() -> None:
    messages = [
        {"role": "user", "content": "<image>\nq " + "word " * 30},
        {"role": "assistant", "content": "a"},
    ]
    whole = encode_conversation(messages, tokenizer=sentencepiece(), template="v0", key="k1")
    for limit in range(20, length(whole, 10) - 5, 10):
        with pytest.raises(PackError, match="before its first answer"):
            encode_conversation(
                messages, tokenizer=sentencepiece(), template="v0", key="k1",
                max_length=limit, overflow="truncate_answer", image_embeddings=10,
            )  # fmt: skip


@pytest.mark.parametrize("overflow", ["drop_last_turns", "truncate_answer"])
def test_every_limit_is_kept_or_refused(overflow: str) -> None:
    whole = length(encode(), embeddings=5)
    for limit in range(1, whole):
        try:
            sample = encode(max_length=limit, overflow=overflow, image_embeddings=5)
        except PackError:
            assert limit < whole // 2 + 20
            continue
        assert length(sample, embeddings=5) <= limit
        assert sample.num_trained > 0
        assert sample.events


@pytest.mark.parametrize(
    "options", [{"max_length": 0}, {"max_length": 9, "overflow": "cut"}, {"max_length": -1}]
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        encode(**options)
