"""Templates come from strangers: whatever they try ends soon, in a TemplateError."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from neva_prep.errors import TemplateError
from neva_prep.templates import ConversationTemplate, budget
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
    "tests": "{% set l = range(99999)|list %}{{ range(-9999, 0)|select('in', l)|list|length }}",
    "test of long lists": "{% set x, y = ['a' * 999999], ['a' * 999999] %}"
    "{{ (x * 9999)|reject('eq', y)|list }}",
    "comparison": "{% set x, y = 'a' * 999999, 'a' * 999998 ~ 'b' %}"
    "{{ [x] * 999999 == [y] * 999999 }}",
    "comparison of shared lists": "{% set n = namespace(x=1, y=1) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "look-up": "{% set x, y = 'a' * 999999, 'a' * 999998 ~ 'b' %}"
    + "{% set l = ["
    + "x," * 9999
    + "] %}{{ ["
    + "l," * 9999
    + "]|select('in', [[y]]) }}"
    "{% for m in l %}{{ y in l }}{% endfor %}",
    "maximum of a generator": "{% set n = namespace(x=1, y=1) %}{% for i in range(60) %}"
    "{% set n.x = [1]|batch(3, n.x)|list %}{% set n.y = [1]|batch(3, n.y)|list %}{% endfor %}"
    "{{ [n.x, n.y]|select|max|length }}",
    "round": "{{ 1|round(1000000, 'ceil') }}" * 50,
    "rounds of a map": "{{ ([1] * 999)|map('round', 999999, 'ceil')|list }}",
    "chains": ("{{ a" + ".b" * 120 + " }}") * 300,
    "sums of lists": "{{ ([[1]] * 300000)|sum(start=[])|length }}",
    "many sums": "{{ range(99999)|map('abs')|sum }}" * 2000,
    "namespaces": "{% set n = namespace(x='a') %}"
    + "{% set n = namespace(x=n, y=n) %}" * 60
    + "{{ n }}",
    "views": "{% set x = ['a'] %}{% set n = namespace(x=x) %}{% for i in range(60) %}"
    "{% set n.x = [1]|batch(3, n.x)|list %}{% endfor %}{{ {'a': n.x}.items() }}",
    "keys": "{% set x = 'a' * 999999 %}{{ [{x: 1}] * 99999 }}",
    "slices": "{% set x = 'a' * 999999 %}{{ [" + "x[1:]," * 9999 + "]|length }}",
    "bytes": "{{ ('%2000000000s'.encode() % 'a'.encode())|length }}",
    "bytes' replace": "{{ ('a' * 30000).encode().replace(''.encode(), ('b' * 30000).encode()) }}",
    "bytes of a number": "{{ (1).to_bytes(1000000000, 'big')|length }}",
    "many fields": "{{ ('{0:999}' * 140000).format('😀')|length }}",
    "fields of a text": "{{ ('{0}' * 300000).format('a' * 999999)|length }}",
    "fields of a mapping": "{{ ('{a}' * 300000).format_map({'a': 'a' * 999999})|length }}",
    "named fields": "{{ ('%(a)s' * 100000) % {'a': 'a' * 999999} }}",
    "star width": "{{ '%*d' % (1000000000, 1) }}",
    "nested width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "precision": "{{ '%.1000000000f' % 1 }}",
    "ljust by name": "{{ 'a'.center(width=1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "tabs": "{{ ('\t' * 999999).expandtabs(99999) }}",
    "indent by name": "{{ ('\\na' * 99999)|indent(width=999999) }}",
    "indent by text": "{% set x = 'a' * 999999 %}{{ ('\na' * 99999)|indent(x) }}",
    "replace by name": "{% set x = 'a' * 999999 %}{{ x|replace(old='a', new=x) }}",
    "replace a number": "{% set x = '1' * 999999 %}{{ x|replace(1, x) }}",
    "replace of markup": "{% set x = ('a' * 999999)|escape %}{{ x.replace(new=x, old='a') }}",
    "stripping tags": "{{ (('<!---->' * 120000)|escape|safe).striptags() }}",
    "trim": "{{ ('b' * 999999)|trim('a' * 999999 ~ 'b') }}",
    "strip": "{{ ('b' * 999999).strip('a' * 999999 ~ 'b') }}",
    "rfind": "{{ ('a' * 999999).rfind('a' * 250000 ~ 'b' ~ 'a' * 250000) }}",
    "batch": "{{ [" + "[1]|batch(1000000, 0)|list," * 3000 + "]|length }}",
    "slice": "{{ [" + "[1]|slice(1000000)|list," * 3000 + "]|length }}",
    "JSON's indent": "{{ ([1] * 99999)|tojson(indent=999999) }}",
    "JSON's separators": "{% set x = 'a' * 999999 %}{{ ([1] * 99999)|tojson(separators=(x, x)) }}",
    "JSON's depth": "{% set n = namespace(x=range(9999)|list) %}{% for i in range(500) %}"
    "{% set n.x = [n.x] %}{% endfor %}{% for i in range(99) %}{{ n.x|tojson(indent=20)|length }}"
    "{% endfor %}",
    "list of lists": "{{ [" + "range(99999)|list," * 3000 + "]|length }}",
    "numbers": "{% set n = namespace(x=2) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}"
    "{% endfor %}",
    "hexadecimal": "{{ ('f' * 999999)|int(base=16) }}",
    "attributes of a namespace": "{% set n = namespace() %}{% set n.x = n %}"
    "{{ ([n] * 99999)|map(attribute='x' ~ '.x' * 9999)|list|length }}",
    "undefined": "{{ a.b.c }}",
    "include": "{% include '/etc/passwd' %}",
    "mutation": "{{ messages.append(1) }}",
    "deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "long": "{{ 'a' }}" * 100_000,
    "unclosed": "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_soon_in_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MAX_SECONDS", 1.0)
    start, before = time.process_time(), _peak_kilobytes()
    with pytest.raises(TemplateError, match="template 'evil'"):
        ConversationTemplate("evil", HOSTILE[name] + BODY).render(MESSAGES)
    assert time.process_time() - start < 5
    # Beyond what tests before it left: of this process alone.
    assert _peak_kilobytes(begin=False) - before < 400 * 2**10


def _peak_kilobytes(*, begin: bool = True) -> int:
    """Most memory since a begin; 0 where the system tells none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if begin:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM"))


def test_an_honest_template_passes() -> None:
    rendered = ConversationTemplate("fine", BODY).render(MESSAGES)
    assert (rendered.text, rendered.trained) == ("hiyo", ((2, 4),))


LONG = "word " * 100
MANY_TURNS = [{"role": role, "content": LONG} for _ in range(100) for role in ("user", "assistant")]
# As Qwen3's, Llama 3.1's and Mistral's templates are written.
HONEST = {
    "how many messages, in a loop": "{% for m in messages[::-1] %}"
    "{% set index = (messages|length - 1) - loop.index0 %}{% endfor %}"
    "{% for m in messages %}{% if loop.index0 == messages|count - 1 and messages|first %}"
    "{% endif %}{{ m.content }}</s>{% endfor %}",
    "chosen messages": "{% for m in messages %}"
    "{% if messages|selectattr('role', 'equalto', 'tool')|list %}{% endif %}"
    "{{ m.content }}</s>{% endfor %}",
    "gathered messages": "{% set ns = namespace(all=[]) %}{% for m in messages %}"
    "{% set ns.all = ns.all + [m] %}{% endfor %}"
    "{% for m in ns.all %}{{ m.content }}</s>{% endfor %}",
    "macro of all messages": "{% macro last(all, i) %}{{ i == all|length - 1 }}{% endmacro %}"
    "{% for m in messages %}{% if last(messages, loop.index0) == 'x' %}{% endif %}"
    "{{ m.content }}</s>{% endfor %}",
    "fields": "{% for m in messages %}{% if 'tool_calls' in m or m == none or m.content == '' %}"
    "{% endif %}{{ m.content }}</s>{% endfor %}",
    "texts": "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '**%s**: {}'.format('x')[:0] + '' + m.role[:0] ~ c.strip()[:0] }}{{ c }}</s>{% endfor %}",
}


@pytest.mark.parametrize("name", HONEST)
def test_a_long_conversation_is_within_the_budget(name: str) -> None:
    template = ConversationTemplate(name, HONEST[name], stop_string="</s>")
    assert template.render(MANY_TURNS).text == (LONG + "</s>") * 200


def test_a_conversation_of_a_million_characters_is_within_the_budget() -> None:
    messages = [dict(message, content=LONG * 100) for message in MANY_TURNS[:20]]
    template = ConversationTemplate("texts", HONEST["texts"], stop_string="</s>")
    assert len(template.render(messages).text) == 20 * (50_000 + 4)


@pytest.mark.parametrize("number", [1_700_000_000, 1_700_000_000_000, -(2**63), 2**128, 1e300])
@pytest.mark.parametrize(
    "shown",
    [
        "v|tojson",
        "v|string",
        "v",
        "v|d(0)",
        "'%s' % v",
        "'{}'.format(v)",
        "say(v)",
        "[v]|first",
        "{'a': v}.get('a')",
        "v + 0",
        "v|abs * (1 if v > 0 else -1)",
    ],
)
def test_great_numbers_of_tool_calls_are_shown(number: float, shown: str) -> None:
    source = (
        "{% macro say(v) %}{{ v }}{% endmacro %}{% for m in messages %}{% if m.tool_calls %}"
        "{% set v = m.tool_calls[0].id %}{{ " + shown + " }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "q", "tool_calls": [{"id": number}]}]
    assert ConversationTemplate("number", source).render(messages).text == str(number)


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
