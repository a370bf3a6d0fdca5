"""Answers with thoughts or calls, in templates that look into them as Qwen3's and DeepSeek's do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_templates_tokenizers import byte_level, trained_text

from neva_prep.errors import TemplateError
from neva_prep.templates import ConversationTemplate, encode_conversation, get_template

# Thoughts stand in the last turn alone; without any, an empty thought stands there.
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set said = m.content %}{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ said.lstrip('\n') }}"
    "{% for c in m.tool_calls or [] %}{{ '\n' if said or not loop.first }}"
    "<tool_call>{{ c.function.name }}</tool_call>{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The prompt begins the thought; of earlier turns it is not shown.
PROMPTED = THINKS.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant\n<think>\n{%")
INLINE = "<think>\nfur\n</think>\n\nA cat."
CALL = [{"function": {"name": "look"}}]


def thinking() -> Any:
    """A tokenizer whose thoughts stand between added tokens that are not special."""
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    return tokenizer


def conversation(*answers: dict[str, Any] | str) -> list[dict[str, Any]]:
    return [
        turn
        for said in answers
        for turn in (
            {"role": "user", "content": "Who?"},
            {
                "role": "assistant",
                **({"content": said} if isinstance(said, str) else said),
            },
        )
    ]


def trained(messages: list[dict[str, Any]], source: str = THINKS) -> str:
    template = ConversationTemplate("own", source)
    tokenizer = thinking()
    sample = encode_conversation(messages, tokenizer=tokenizer, template=template)
    return trained_text(sample, tokenizer)


APART = {"content": "A cat.", "reasoning_content": "fur"}


@pytest.mark.parametrize("said", [INLINE, APART], ids=["inline", "apart"])
def test_a_thought_is_trained_with_the_answer_that_it_leads_to(said: Any) -> None:
    assert trained(conversation(said)) == f"{INLINE}<|im_end|>"
    prompted = trained(conversation(said), PROMPTED)
    assert prompted == f"{INLINE}<|im_end|>".removeprefix("<think>\n")


@pytest.mark.parametrize("source", [THINKS, PROMPTED])
@pytest.mark.parametrize("said", [INLINE, APART], ids=["inline", "apart"])
def test_a_thought_that_the_template_leaves_out_is_counted(said: Any, source: str) -> None:
    template = ConversationTemplate("own", source)
    messages = conversation(said, "A dog.")
    sample = encode_conversation(messages, tokenizer=thinking(), template=template)
    assert trained_text(sample, thinking()) == "A cat.<|im_end|>A dog.<|im_end|>"
    assert sample.events == {"dropped_thoughts": 1}


def test_an_empty_thought_is_none_that_could_be_left_out() -> None:
    parts_off = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}</s>{% endfor %}"
    template = ConversationTemplate("own", parts_off, stop_string="</s>")
    assert template.render(conversation("<think>\n\n</think>\nA cat.")).events == {}
    assert template.render(conversation(INLINE)).events == {"dropped_thoughts": 1}


def test_a_thought_in_a_field_that_no_library_template_shows_is_counted() -> None:
    sample = encode_conversation(conversation(APART), tokenizer=thinking(), template="chatml")
    assert sample.events == {"dropped_thoughts": 1}


def test_an_empty_thought_of_the_template_is_not_trained() -> None:
    assert trained(conversation("A cat.")) == "A cat.<|im_end|>"


def test_tokens_with_a_thought_are_those_of_serving() -> None:
    tokenizer = thinking()
    messages = conversation("Yes.", INLINE)
    template = ConversationTemplate("own", THINKS)
    ours = encode_conversation(messages, tokenizer=tokenizer, template=template)
    text = tokenizer.apply_chat_template(messages, chat_template=THINKS, tokenize=False)
    assert ours.tokens.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_ends_a_thought_stays_text_in_a_question() -> None:
    tokenizer = thinking()
    messages = conversation("A cat.")
    messages[0]["content"] = "</think> <think>"
    template = ConversationTemplate("own", THINKS)
    sample = encode_conversation(messages, tokenizer=tokenizer, template=template)
    assert sample.events["escaped_special_text"] == 2
    assert sample.tokens.tolist().count(tokenizer.convert_tokens_to_ids("</think>")) == 1
    assert trained_text(sample, tokenizer) == "A cat.<|im_end|>"


@pytest.mark.parametrize("said", ["", None])
def test_a_call_without_a_word_is_trained_where_the_template_asks_for_words(said: Any) -> None:
    called = {"content": said, "tool_calls": CALL}
    assert trained(conversation(called)) == "<tool_call>look</tool_call><|im_end|>"
    both = trained(conversation(called, "A cat."))
    assert both == "<tool_call>look</tool_call><|im_end|>A cat.<|im_end|>"


def test_the_place_of_a_thoughtful_answer_is_shown() -> None:
    template = ConversationTemplate("own", THINKS)
    messages = conversation(INLINE)
    rendered = template.render(messages)
    assert rendered.trained_texts == [f"{INLINE}<|im_end|>\n"]
    from neva_prep.templates.trace import trace_conversation

    traced = trace_conversation(messages, tokenizer=thinking(), template=template)
    assert {token.turn for token in traced if token.trained} == {1}
    assert get_template("v1").render(messages).trained_texts == [f" {INLINE}</s>"]


# Qwen 2.5's and Mistral's way: no place for a text that is not there.
NO_PLACE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}"
    "{% if m.content %}{{ '\n' + m.content }}{% endif %}{% for c in m.tool_calls or [] %}"
    "{{ '\n<tool_call>' + c.function.name }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("more", [(), ("A cat.",)])
def test_calls_without_a_word_are_trained_where_words_would_have_no_place(more: Any) -> None:
    messages = conversation({"content": "", "tool_calls": [*CALL, *CALL]}, *more)
    called = "<tool_call>look</tool_call>\n<tool_call>look</tool_call><|im_end|>"
    assert trained(messages, NO_PLACE) == called + "".join(f"{said}<|im_end|>" for said in more)


@pytest.mark.parametrize("source", [THINKS, PROMPTED])
def test_calls_that_follow_a_thought_are_trained_with_it(source: str) -> None:
    called = {"content": "<think>\nfur\n</think>\n\n", "tool_calls": CALL}
    wanted = "<think>\nfur\n</think>\n\n<tool_call>look</tool_call><|im_end|>"
    prompted = source == PROMPTED
    assert trained(conversation(called), source) == wanted[len("<think>\n") * prompted :]


def test_calls_away_from_the_prompt_are_refused() -> None:
    source = NO_PLACE.replace("<|im_start|>assistant\n{%", "<|im_start|>bot\n{%")
    with pytest.raises(TemplateError, match="calls of message 1 do not stand right behind"):
        trained(conversation({"content": "", "tool_calls": CALL}), source)
