"""Templates come from strangers: whatever they try ends soon, in a TemplateError."""

import time

import pytest

from neva_prep.errors import TemplateError
from neva_prep.templates import ConversationTemplate
from neva_prep.templates.sandbox import marks_generation

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
BODY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
DOUBLED = "{% set x = [x, x] %}" * 60
HOSTILE = {
    "class": "{{ ''.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr": "{{ ''|attr('__class__') }}",
    "map": "{{ ['']|map(attribute='__class__')|list }}",
    "format": "{{ '{0.__class__}'.format(1) }}",
    "item": "{{ messages['__class__'] }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "loop": "{% for i in range(10000000) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "product": "{{ 'a' * 10000000000 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "width": "{{ '%1000000000d' % 1 }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling blocks": "{% set x = 'aaaa' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "replace": "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}",
    "join": "{% set x = 'a' * 100000 %}{{ x|join(x) }}",
    "shared lists": "{% set x = ['a'] %}" + DOUBLED + "{{ x }}",
    "shared lists as JSON": "{% set x = ['a'] %}" + DOUBLED + "{{ x|tojson }}",
    "shared mappings": "{% set x = 'a' %}" + "{% set x = {'a': x, 'b': x} %}" * 60 + "{{ x }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(40) }}",
    "raise": "{{ raise_exception('no') }}",
    "division": "{{ 1 / 0 }}",
    "syntax": "{% for %}",
    "undefined": "{{ a.b.c }}",
    "include": "{% include '/etc/passwd' %}",
    "mutation": "{{ messages.append(1) }}",
    "deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "long": "{{ 'a' }}" * 100_000,
    "unclosed": "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_soon_in_an_error(name: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError, match="template 'evil'"):
        ConversationTemplate("evil", HOSTILE[name] + BODY).render(MESSAGES)
    assert time.process_time() - start < 8


def test_an_honest_template_passes() -> None:
    rendered = ConversationTemplate("fine", BODY).render(MESSAGES)
    assert (rendered.text, rendered.trained) == ("hiyo", ((2, 4),))


def test_a_generation_block_inside_a_macro_is_found_where_its_text_ends_up() -> None:
    source = (
        "{% macro say(m) %}<{% generation %}{{ m.content }}{% endgeneration %}>{% endmacro %}"
        "{% for m in messages %}{{ say(m) | trim if m.role == 'assistant' else m.content }}"
        "{% endfor %}"
    )
    rendered = ConversationTemplate("macro", source).render(MESSAGES)
    assert rendered.text == "hi<yo>"
    assert rendered.trained_texts == ["yo"]


@pytest.mark.parametrize(
    "mention",
    [
        "{# mark with {% generation %} #}",
        "{% raw %}{% generation %}{% endraw %}",
        "{{ '{% generation %}' }}",
        "{#- {%- generation -%} -#}",
    ],
)
def test_what_only_mentions_a_generation_block_has_none(mention: str) -> None:
    source = mention + "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    rendered = ConversationTemplate("mention", source, stop_string="</s>").render(MESSAGES)
    assert rendered.trained_texts == ["yo</s>"]


def test_a_generation_block_is_found_however_it_is_written() -> None:
    for tag in ("{%generation%}", "{%-\n generation -%}", "{%+ generation %}"):
        assert marks_generation(tag + "x{% endgeneration %}")
