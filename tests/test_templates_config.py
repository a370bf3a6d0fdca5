"""Which template a conversation gets, and every dialect of messages."""

import json
from dataclasses import replace
from typing import Any

import pytest
from test_templates_tokenizers import byte_level, sentencepiece

from neva_prep.errors import ConfigError, TemplateError
from neva_prep.templates import (
    BaseConversationTemplateConfig,
    ImageToken,
    LLaVATemplateConfig,
    encode_conversation,
    get_template,
    resolve_template,
)
from neva_prep.templates.messages import read_messages

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]


class WithTemplate:
    """A tokenizer that has a chat template of its own."""

    chat_template = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"


def test_nemos_fields_and_defaults() -> None:
    config = LLaVATemplateConfig()
    assert config.system == (
        "A chat between a curious user and artificial assistant agent. The assistant gives "
        "helpful, detailed and polite answers to user's questions."
    )
    assert list(config.roles) == ["user", "assistant"]
    assert config.stop_string == "</s>"
    assert isinstance(config, BaseConversationTemplateConfig)
    assert (ImageToken().token_str, ImageToken().token_id) == ("<image>", -200)


def test_the_llava_config_renders_what_nemo_renders() -> None:
    messages = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yo\n"}]
    text = resolve_template(LLaVATemplateConfig(), sentencepiece()).render(messages).text
    assert text == f"{LLaVATemplateConfig().system} USER: Hi ASSISTANT: Yo</s>"


def test_the_config_comes_before_the_tokenizer_before_an_error() -> None:
    config = BaseConversationTemplateConfig(system=None, chat_template="{{ messages[0].content }}")
    assert resolve_template(config, WithTemplate()).render(HI[:1]).text == "Hi"
    for unset in (None, ""):
        own = resolve_template(replace(config, chat_template=unset), WithTemplate())
        assert own.render(HI[:1]).text == "user=Hi;"
        with pytest.raises(ConfigError, match="chat template"):
            resolve_template(replace(config, chat_template=unset), sentencepiece())
    with pytest.raises(ConfigError, match="chat template"):
        encode_conversation(HI, tokenizer=sentencepiece())


def test_roles_and_stop_string_act() -> None:
    config = LLaVATemplateConfig(system="S.", roles=["human", "bot"], stop_string="<end>")
    rendered = resolve_template(config, sentencepiece()).render(HI)
    assert rendered.text == "S. HUMAN: Hi BOT: Yo<end>"
    assert rendered.trained_texts == [" Yo<end>"]


def test_a_template_may_test_roles_by_its_own_names_or_by_the_usual_ones() -> None:
    for user in ("human", "user"):
        source = f"{{% for m in messages %}}{{{{ m.role == '{user}' }}}},{{% endfor %}}"
        config = BaseConversationTemplateConfig(
            system=None, roles=["human", "bot"], chat_template=source
        )
        assert resolve_template(config, sentencepiece()).render(HI[:1]).text == "True,"


def test_a_system_message_replaces_the_templates_own() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HI]
    assert get_template("v1").render(messages).text == "Be brief. USER: Hi ASSISTANT: Yo</s>"


IMAGE: dict[str, Any] = {"type": "image"}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    "messages",
    [
        [{"from": "human", "value": "<image>\nHi"}, {"from": "gpt", "value": "Yo"}],
        [{"role": "user", "content": "<image>\nHi"}, {"role": "assistant", "content": "Yo"}],
        [
            {"role": "user", "content": [IMAGE, text("\nHi")]},
            {"role": "assistant", "content": [text("Yo")]},
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "x.jpg"}},
                    text("\n"),
                    text("Hi"),
                ],
            },
            {"role": "assistant", "content": "Yo"},
        ],
    ],
)
def test_dialects_of_one_conversation_give_one_text(messages: list[dict[str, Any]]) -> None:
    rendered = get_template("chatml").render(messages)
    assert rendered.text == (
        "<|im_start|>user\n<image>\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )
    assert len(rendered.images) == 1


def test_beside_image_parts_the_placeholder_is_text() -> None:
    content = [IMAGE, text("Write <image>.")]
    rendered = get_template("v1").render([{"role": "user", "content": content}])
    assert len(rendered.images) == 1
    assert rendered.events == {"escaped_image_text": 1}


def test_tool_calls_and_results_are_messages() -> None:
    call: dict[str, Any] = {"function": {"name": "add", "arguments": {"a": 1}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two."},
    ]
    qwen = get_template("qwen2_5").render(messages)
    assert qwen.trained_texts == [
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>',
        "Two.<|im_end|>",
    ]
    assert "<tool_response>\n2\n</tool_response>" in qwen.text
    plain = get_template("v1").render(messages)
    assert plain.trained_texts == [' {"name": "add", "arguments": {"a": 1}}</s>', " Two.</s>"]
    assert "USER: 2 ASSISTANT:" in plain.text


@pytest.mark.parametrize("arguments", ['{"z": "<b> é & \'", "a": 1700000000000}', '{"é": "</s>"}'])
def test_tool_calls_keep_their_order_and_letters(arguments: str) -> None:
    call = {"function": {"name": "f", "arguments": json.loads(arguments)}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    assert arguments in get_template("qwen2_5").render(messages).text


def test_a_template_of_a_vision_model_gets_parts() -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {% for p in m.content %}"
        "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %};"
        "{% endfor %}"
    )
    config = BaseConversationTemplateConfig(system=None, chat_template=source, stop_string=";")
    messages = [
        {"role": "user", "content": "Look <image> here"},
        {"role": "assistant", "content": "No <image>."},
    ]
    rendered = resolve_template(config, sentencepiece()).render(messages)
    assert rendered.text == "user: Look <image> here;assistant: No <image>.;"
    assert rendered.trained_texts == ["No <image>.;"]
    assert [rendered.text[:start].count(" ") for start, _ in rendered.images] == [2]


@pytest.mark.parametrize(
    ("messages", "finding"),
    [
        ([], "no messages"),
        ([{"role": "narrator", "content": "x"}], "message 0: unknown role 'narrator'"),
        ([{"role": "user", "content": 3}], "message 0: content is int"),
        ([{"role": "user", "content": [{"type": "video"}]}], "kind 'video'"),
    ],
)
def test_bad_messages_are_named(messages: list[dict[str, Any]], finding: str) -> None:
    with pytest.raises(TemplateError, match=finding):
        read_messages(messages)


def test_a_template_that_shows_an_image_twice_or_never_is_refused() -> None:
    for source in ("{{ messages[0].content * 2 }}", "nothing"):
        config = BaseConversationTemplateConfig(system=None, chat_template=source)
        with pytest.raises(TemplateError, match="has 1 images but the text shows"):
            resolve_template(config, byte_level()).render([{"role": "user", "content": "<image>"}])
