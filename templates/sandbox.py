"""A Jinja environment for templates from strangers: no way out, no endless work.

Every loop turn, call, filter and printed character spends from a budget, so that a template ends
in bounded time and memory. The `{% generation %}` tag prints a mark before and after its body;
what stands between the marks is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .budget import (
    BUDGET,
    MAX_SOURCE_CHARS,
    TURN_COST,
    check_format,
    check_growth,
    check_join,
    check_numbers,
    concat,
    join,
    metered,
    replacement_chars,
    to_json,
)
from .parts import takes_parts

OPEN_NAME, CLOSE_NAME = "generation_open_", "generation_close_"
"""Variables that hold the two marks."""
FILTERS = (
    *("abs", "attr", "batch", "capitalize", "count", "d", "default", "dictsort", "e", "escape"),
    *("first", "float", "groupby", "indent", "int", "items", "last", "length", "list", "lower"),
    *("map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe"),
    *("select", "selectattr", "slice", "sort", "string", "sum", "title", "trim", "unique"),
    *("upper", "wordcount"),
)


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: loss is taken on what the body prints."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        """The body between two printed marks, with its own scope."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        opened = nodes.Output([nodes.Name(OPEN_NAME, "load")])
        closed = nodes.Output([nodes.Name(CLOSE_NAME, "load")])
        return nodes.Scope([opened, *body, closed]).set_lineno(line)


_DIALECT: dict[str, Any] = {
    "trim_blocks": True,
    "lstrip_blocks": True,
    "extensions": [Generation, loopcontrols],
}


class Sandbox(ImmutableSandboxedEnvironment):
    """Chat-template dialect of Jinja, without any way to run for long or to reach Python."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(finalize=BUDGET.weigh, **_DIALECT)
        self.filters = {name: metered(self.filters[name]) for name in FILTERS}
        self.filters |= {"tojson": metered(to_json), "join": join}
        self.globals = {
            name: self.globals[name] for name in ("cycler", "dict", "joiner", "namespace", "range")
        }
        self.globals["raise_exception"] = _raise_exception
        self.turn, self.weigh, self.concat_metered = BUDGET.turn, BUDGET.weigh, concat

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for body in _repeated_bodies(tree):
            literals = [data for node in body for data in node.find_all(nodes.TemplateData)]
            cost: nodes.Expr = nodes.Const(sum(len(data.data) for data in literals))
            body.insert(0, nodes.ExprStmt(_call("turn", [cost]), lineno=1))
        for assign in tree.find_all(nodes.Assign):
            assign.node = _call("weigh", [assign.node])
        for block in tree.find_all(nodes.With):
            block.values = [_call("weigh", [value]) for value in block.values]
        return _meter_concatenations(tree)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Refuse at once; Jinja's own answer prints as an empty text when nothing follows."""
        raise SecurityError(f"access to attribute {attribute!r} is unsafe")

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format`, confined, and without great widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            check_format(value.__self__)
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result is paid for, after a check that it stays small."""
        if operator in ("*", "**"):
            check_growth(operator, left, right)
        if operator == "%" and isinstance(left, str):
            check_format(left)
            BUDGET.weigh(right)
        return BUDGET.pay(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call whose numbers are small and whose result is paid for."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            BUDGET.spend(len(owner) + TURN_COST)
            if name in ("expandtabs", "translate"):
                raise SecurityError(f"str.{name} is not offered to templates")
            elif name == "replace" and len(args) > 1:
                BUDGET.spend(replacement_chars(owner, args[0], args[1]))
            elif name == "join" and args:
                args = (check_join(owner, args[0]), *args[1:])
        check_numbers((*args, *kwargs.values()))
        BUDGET.weigh(args)
        return BUDGET.pay(super().call(__context, __obj, *args, **kwargs))


@lru_cache(maxsize=1)
def _sandbox() -> Sandbox:
    return Sandbox()


@lru_cache(maxsize=1)
def _unmetered() -> ImmutableSandboxedEnvironment:
    """The same dialect without a budget, for the templates of the library."""
    environment = ImmutableSandboxedEnvironment(**_DIALECT)
    environment.filters["tojson"] = to_json
    return environment


@lru_cache(maxsize=256)
def compile_template(source: str, trusted: bool = False) -> Template:
    """A template, compiled once.

    Raises:
        jinja2.exceptions.TemplateError: syntax, unknown filters, or a source that is too long.
    """
    _check_length(source)
    BUDGET.restart()
    return (_unmetered() if trusted else _sandbox()).from_string(source)


@lru_cache(maxsize=256)
def marks_generation(source: str) -> bool:
    """Whether a template has `{% generation %}` blocks."""
    _check_length(source)
    names = _unmetered().parse(source).find_all(nodes.Name)
    return any(name.name == OPEN_NAME for name in names)


@lru_cache(maxsize=256)
def reads_content_as_parts(source: str) -> bool:
    """Whether a template takes `content` as a list of parts, as those of vision models do."""
    _check_length(source)
    return takes_parts(_unmetered().parse(source))


def render_source(source: str, variables: dict[str, Any], *, trusted: bool = False) -> str:
    """The text that a template prints.

    Args:
        source: the template.
        variables: what it sees.
        trusted: the template is one of the library, which needs no budget.

    Raises:
        jinja2.exceptions.TemplateError, or whatever the template provokes: the caller names it.
    """
    template = compile_template(source, trusted)
    if trusted:
        return template.render(variables)
    BUDGET.restart()
    blocks = []
    for block in template.generate(variables):
        BUDGET.spend(len(block))
        blocks.append(block)
    return "".join(blocks)


def _check_length(source: str) -> None:
    if len(source) > MAX_SOURCE_CHARS:
        raise JinjaError(f"the template has more than {MAX_SOURCE_CHARS:,} characters")


def _repeated_bodies(tree: nodes.Template) -> Iterator[list[nodes.Node]]:
    """Statements that may run more than once: of loops, macros and call blocks."""
    for loop in tree.find_all(nodes.For):
        yield loop.body
    for macro in tree.find_all(nodes.Macro):
        yield macro.body
    for block in tree.find_all(nodes.CallBlock):
        yield block.body


def _call(attribute: str, arguments: list[Any]) -> nodes.Call:
    target = nodes.EnvironmentAttribute(attribute)
    return nodes.Call(target, arguments, [], None, None)


def _meter_concatenations(tree: nodes.Template) -> nodes.Template:
    """Turn every `a ~ b` into a call that pays for the text."""
    for node in tree.find_all(nodes.Node):
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, field, _call("concat_metered", value.nodes))
            elif isinstance(value, list):
                value[:] = [
                    _call("concat_metered", item.nodes) if isinstance(item, nodes.Concat) else item
                    for item in value
                ]
    return tree


def _raise_exception(message: str) -> None:
    raise JinjaError(message)
