"""Templates without generation blocks: spans by the place of each answer, or an error."""

import pytest
from test_templates_tokenizers import byte_level, trained_text

from neva_prep.errors import TemplateError
from neva_prep.templates import ConversationTemplate, encode_conversation

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TRIMMED = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} ;{% endfor %}"
MESSAGES = [
    {"role": "user", "content": "A cat."},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "A cat.<|im_end|>"},
    {"role": "assistant", "content": " A cat.\n"},
]


def test_the_tokenizers_own_template_trains_answers_and_stop_tokens() -> None:
    tokenizer = byte_level()
    template = ConversationTemplate("own", CHATML)
    sample = encode_conversation(MESSAGES, tokenizer=tokenizer, template=template)
    assert trained_text(sample, tokenizer) == "A cat.<|im_end|> A cat.\n<|im_end|>"


def test_without_a_tokenizer_an_answer_ends_where_its_message_ends() -> None:
    rendered = ConversationTemplate("own", CHATML).render(MESSAGES)
    assert rendered.trained_texts == ["A cat.<|im_end|>\n", " A cat.\n<|im_end|>\n"]


def test_a_stop_string_ends_the_span_and_trimming_moves_nothing() -> None:
    template = ConversationTemplate("own", TRIMMED, stop_string=";")
    rendered = template.render(MESSAGES)
    assert rendered.trained_texts == ["A cat. ;", "A cat. ;"]
    assert rendered.trained[0][0] == rendered.text.index("[assistant] ") + len("[assistant] ")


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        (
            "{% for m in messages %}{{ m.content | upper | reverse }};{% endfor %}",
            "appear once",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ m.content }};{% endfor %}",
            "looks into|once",
        ),
        ("{% for m in messages | reverse %}{{ m.content }};{% endfor %}", "looks|once|turn|ends"),
        (
            "{% for m in messages %}{{ m.content | length }}{{ m.content }};{% endfor %}",
            "looks into",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ '!' if loop.last else '.' }}{% endfor %}",
            "message 1 ends differently",
        ),
    ],
)
def test_an_unclear_place_is_an_error_that_says_where(source: str, finding: str) -> None:
    with pytest.raises(TemplateError, match=finding) as caught:
        ConversationTemplate("odd", source).render(MESSAGES)
    assert "generation" in str(caught.value)


LED = [
    {"role": "user", "content": "A cat?"},
    {"role": "assistant", "content": "\n\t A cat."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": " \n"},
]


def test_white_space_that_begins_an_answer_is_trained_where_it_is_shown() -> None:
    template = ConversationTemplate("own", CHATML, stop_string="<|im_end|>")
    assert template.render(LED).trained_texts == ["\n\t A cat.<|im_end|>", " \n<|im_end|>"]


def test_white_space_of_the_template_is_not_trained_where_that_of_answers_is_taken_off() -> None:
    source = CHATML.replace("m.content", "m.content.lstrip()")
    template = ConversationTemplate("own", source, stop_string="<|im_end|>")
    assert template.render(LED).trained_texts == ["A cat.<|im_end|>", "<|im_end|>"]
