"""Equal to Hugging Face where it is right, and right on tokenizers without offsets."""

import random
from pathlib import Path
from typing import Any

import pytest
from test_templates_tokenizers import THREE, byte_level, sentencepiece, trained_text

import neva_prep.templates.sandbox as sandbox
from neva_prep.errors import TemplateError
from neva_prep.templates import ConversationTemplate, encode_conversation, get_template

MARKED = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
)
WORDS = ("a", "cat", "12", "dogs,", "sat.", "é", "一只猫", "🐱", "(b)", "\n", "-", "$x^2$", "Yes")


def conversation(seed: int) -> list[dict[str, str]]:
    chance = random.Random(seed)
    return [
        {"role": role, "content": " ".join(chance.choices(WORDS, k=chance.randint(1, 30)))}
        for _ in range(chance.randint(1, 5))
        for role in ("user", "assistant")
    ]


@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("seed", range(20))
def test_labels_equal_the_assistant_mask(name: str, seed: int) -> None:
    tokenizer = THREE[name]()
    messages = conversation(seed)
    theirs = tokenizer.apply_chat_template(
        messages,
        chat_template=MARKED,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ours = encode_conversation(
        messages, tokenizer=tokenizer, template=ConversationTemplate("marked", MARKED)
    )
    assert ours.tokens.tolist() == theirs["input_ids"]
    mask = list(theirs["assistant_masks"])
    for place, (label, trained) in enumerate(zip(ours.labels, mask, strict=True)):
        # Hugging Face stops at the first of several tokens that share a character; we do not.
        shares = place > 0 and mask[place - 1] and not trained and label != -100
        assert (label != -100) == bool(trained) or shares


def test_words_of_the_template_dialect_are_those_of_hugging_face() -> None:
    source = (
        "{%- for m in messages -%}\n    {% if loop.first %}\n  first\n    {% endif %}\n"
        "{{ m | tojson }}{% if loop.index0 == 1 %}{% break %}{% endif %}\n{% endfor %}"
    )
    messages = [{"role": "user", "content": 'é "<b>"'}] * 3
    theirs = byte_level().apply_chat_template(messages, chat_template=source, tokenize=False)
    assert sandbox.render_source(source, {"messages": messages}) == theirs


def slow_sentencepiece(legacy: bool) -> Any:
    """A tokenizer that calls SentencePiece and knows no offsets."""
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    return SentencePieceBackend(
        vocab_file=str(data("tokenizer.model.v1")),
        legacy=legacy,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def data(name: str) -> Path:
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / name


def tekken(folder: Path) -> Any:
    """mistral-common's byte-level tokenizer through transformers; it reads no special tokens."""
    from transformers.tokenization_mistral_common import MistralCommonBackend

    (folder / "tekken.json").symlink_to(data("tekken_240911.json"))
    return MistralCommonBackend.from_pretrained(str(folder))


HARD = [
    {"role": "user", "content": "<image>\nWho? </s> USER: x ASSISTANT: y</s>"},
    {"role": "assistant", "content": "一只猫🐱。 </s> <image> é"},
    {"role": "user", "content": "How many <image> here?"},
    {"role": "assistant", "content": "12"},
]
TRAINED = " 一只猫🐱。 </s> <image> é</s> 12</s>"


@pytest.mark.parametrize("legacy", [False, True])
def test_sentencepiece_without_offsets_has_the_same_trained_text(legacy: bool) -> None:
    tokenizer = slow_sentencepiece(legacy)
    sample = encode_conversation(HARD, tokenizer=tokenizer, template="v1")
    # Its own decoder does not join bytes; the fast one of the same vocabulary does.
    assert trained_text(sample, sentencepiece()) == TRAINED
    assert sample.tokens.tolist().count(tokenizer.eos_token_id) == 2
    assert sample.tokens.tolist().count(tokenizer.bos_token_id) == 1
    assert int((sample.tokens == -200).sum()) == 2


def test_tekken_has_the_same_trained_text(tmp_path: Path) -> None:
    tokenizer = tekken(tmp_path)
    sample = encode_conversation(HARD, tokenizer=tokenizer, template="v1")
    ids = [token for token, label in zip(sample.tokens, sample.labels, strict=True) if label >= 0]
    assert tokenizer.decode(ids, skip_special_tokens=False) == TRAINED
    assert sample.tokens.tolist().count(2) == 2
    assert sample.tokens.tolist().count(1) == 1


def test_slow_and_fast_agree_token_for_token_inside_a_text() -> None:
    messages = [{"role": "system", "content": ""}, *HARD]
    template = get_template("chatml")
    slow = encode_conversation(
        messages, tokenizer=slow_sentencepiece(legacy=False), template=template
    )
    fast = encode_conversation(messages, tokenizer=sentencepiece(), template=template)
    # A text's first word differs: this slow tokenizer puts no space before it.
    assert slow.tokens.tolist()[-25:] == fast.tokens.tolist()[-25:]
    assert slow.labels.tolist()[-25:] == fast.labels.tolist()[-25:]


def test_a_lone_surrogate_is_an_error_on_slow_tokenizers_too() -> None:
    messages = [{"role": "user", "content": "a \ud83d b"}]
    with pytest.raises(TemplateError, match="surrogate"):
        encode_conversation(messages, tokenizer=slow_sentencepiece(legacy=False), template="v1")
