"""Which templates take content as parts: as vision models' are written, and those that are not."""

import pytest

from neva_prep.templates import ConversationTemplate
from neva_prep.templates.marks import Specials
from neva_prep.templates.sandbox import reads_content_as_parts

EACH = "{% for m in messages %}"
ITEM = (
    "{% if i is mapping and i.type == 'text' %}{{ i.text }}{% elif i is mapping and (i.type == "
    "'image' or 'image' in i) %}<|vs|><|image|><|ve|>{% endif %}{% endfor %}"
)
PARTS = {
    "loop": EACH + "{% for i in m['content'] %}" + ITEM + "{% endfor %}",
    "macro, as of GLM-4.5V": "{% macro vis(content) %}{% if content is string %}{{ content }}"
    "{% elif content is iterable and content is not mapping %}{% for i in content %}"
    + ITEM
    + "{% else %}{{ content }}{% endif %}{% endmacro %}"
    + EACH
    + "{{ vis(m.content) }}{% endfor %}",
    "macro with keyword": "{% macro vis(a, parts=[]) %}{% for i in parts %}"
    + ITEM
    + "{% endmacro %}"
    + EACH
    + "{{ vis(1, parts=m.content)|trim }}{% endfor %}",
    "macro of a message, as of Kimi": "{% macro vis(msg) %}{% set c = msg.get('content') %}"
    "{% if c is string %}{{ c }}{% else %}{% for i in c %}"
    + ITEM
    + "{% endif %}{% endmacro %}"
    + EACH
    + "{{ vis(m) }}{% endfor %}",
    "macro of a macro": "{% macro a(x) %}{% for i in x %}" + ITEM + "{% endmacro %}"
    "{% macro b(y) %}{{ a(y) }}{% endmacro %}" + EACH + "{{ b(m.content) }}{% endfor %}",
    "variable": EACH + "{% set c = m.content %}{% for i in c %}" + ITEM + "{% endfor %}",
    "variable of a condition": EACH
    + "{% set c = m.content if m.content else [] %}{% for i in c %}"
    + ITEM
    + "{% endfor %}",
    "with": EACH
    + "{% with c = m['content'] %}{% for i in c %}"
    + ITEM
    + "{% endwith %}{% endfor %}",
    "filters, as of LLaVA": EACH
    + "{% for i in m['content']|selectattr('type', 'equalto', 'image') %}<|vs|><|image|><|ve|>"
    "{% endfor %}{% for i in m['content']|selectattr('type', 'equalto', 'text') %}"
    "{{ i['text'] }}{% endfor %}{% endfor %}",
    "filters without a loop": EACH
    + "{% if m.content|selectattr('type', 'equalto', 'image')|list %}<|vs|><|image|><|ve|>"
    "{% endif %}{{ m.content|selectattr('type', 'equalto', 'text')|map(attribute='text')|join }}"
    "{% endfor %}",
}
TEXTS = {
    "plain": EACH + "{{ m.content }}{% endfor %}",
    "tool calls": EACH
    + "{% for tool_call in m.tool_calls or [] %}{{ tool_call.type }}{{ tool_call.text }}"
    "{% endfor %}{{ m.content }}{% endfor %}",
    "parameters of tools": "{% macro typed(spec) %}{% for v in spec.oneOf %}{{ v.type }}"
    "{% endfor %}{% endmacro %}{% for tool in tools or [] %}{{ tool['type'] }}"
    "{% for name, p in tool.parameters.properties|items %}{{ p.type }}{{ typed(p) }}{% endfor %}"
    "{% endfor %}" + EACH + "{{ m.content }}{% endfor %}",
    "documents": "{% for doc in documents or [] %}{{ doc['text'] }}{{ doc.type }}{% endfor %}"
    + EACH
    + "{{ m.content }}{% endfor %}",
    "types of messages": EACH + "{{ m.type }}{{ m.content }}{{ m.text }}{% endfor %}",
    "lines": EACH
    + "{% set c = m.content|trim %}{% for line in m.content.split('\n') %}{{ line }}{% endfor %}"
    "{% for letter in c %}{{ letter }}{% endfor %}{% endfor %}",
    "thoughts": EACH + "{% set content = m.content %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}{{ content }}"
    "{{ messages[0].content[0] }}{% endfor %}",
}


@pytest.mark.parametrize("name", PARTS)
def test_a_template_of_parts_gets_its_images_and_texts(name: str) -> None:
    image = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Who?"}]}
    template = ConversationTemplate(name, PARTS[name])
    rendered = template.render([image], Specials(image_token="<|image|>"))
    assert (rendered.text, len(rendered.images)) == ("<|vs|><|image|><|ve|>Who?", 1)


@pytest.mark.parametrize("name", TEXTS)
def test_a_template_of_texts_gets_texts(name: str) -> None:
    assert not reads_content_as_parts(TEXTS[name])
    rendered = ConversationTemplate(name, TEXTS[name]).render([{"role": "user", "content": "Who?"}])
    assert "Who?" in rendered.text
