"""Where each message stands in the rendered text: of all at once, or one by one."""

from __future__ import annotations

from typing import Any

import pytest

from neva_prep.templates import ConversationTemplate, get_template, list_templates
from neva_prep.templates.marks import Specials
from neva_prep.templates.messages import read_messages

TURNS = [
    {"role": "user", "content": "<image>\n Why? "},
    {"role": "assistant", "content": "So. "},
    {"role": "user", "content": "So."},
    {"role": "assistant", "content": "Why?</s>"},
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ CONTENT }}<|im_end|>\n{% endfor %}"
)  # fmt: skip
SPECIALS = Specials(protected=("</s>", "<|im_end|>"))


def places(chat_template: str, turns: list[dict[str, str]]) -> tuple[list[str | None], int]:
    """The text at each message's place, and how often the template was rendered for them."""
    template = ConversationTemplate(name="given", chat_template=chat_template)
    read = read_messages(turns)
    text = template.render_turns(read, SPECIALS).text
    rendered = 0
    run = ConversationTemplate._run

    def counted(self: ConversationTemplate, *arguments: Any) -> str:
        nonlocal rendered
        rendered += 1
        return run(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConversationTemplate, "_run", counted)
        spans = template.content_spans(read, SPECIALS)
    return [span and text[slice(*span)] for span in spans], rendered


@pytest.mark.parametrize("content", ["m.content", "m.content | trim"])
def test_messages_are_found_in_two_renderings(content: str) -> None:
    found, rendered = places(CHATML.replace("CONTENT", content), TURNS * 50)
    assert found == ["<image>\n Why?", "So.", "So.", "Why?</s>"] * 50
    assert rendered == 2


def test_where_a_template_leaves_a_message_out_the_others_are_found() -> None:
    chat_template = CHATML.replace("{{ CONTENT }}", "{{ m.content if loop.index != 3 else '' }}")
    found, rendered = places(chat_template, TURNS)
    assert found == ["<image>\n Why?", "So.", None, "Why?</s>"]
    assert rendered == 2 + len(TURNS)


def test_where_a_template_turns_messages_around_each_is_still_its_own() -> None:
    chat_template = CHATML.replace("in messages", "in messages | reverse").replace(
        "CONTENT", "m.content"
    )
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    marked = "{% generation %}{{ m.content }}{% endgeneration %}"
    found, rendered = places(chat_template.replace("{{ m.content }}", marked), turns)
    assert found == ["Why?", "So."]
    assert rendered == 2 + len(turns)


def test_where_a_template_looks_into_a_message_each_is_marked_alone() -> None:
    chat_template = CHATML.replace("{{ CONTENT }}", "{{ m.content }}{{ m.content | length }}")
    found, rendered = places(
        chat_template.replace(
            "{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"
        ),
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
    )
    assert found == ["Why?", "So."]
    assert rendered == 4


@pytest.mark.parametrize("name", list_templates())
def test_templates_of_the_library_show_an_answer_at_its_place(name: str) -> None:
    template = get_template(name)
    turns = read_messages(TURNS[:2])
    text = template.render_turns(turns, Specials()).text
    span = template.content_spans(turns, Specials())[1]
    assert span is not None and text[slice(*span)] == "So."
