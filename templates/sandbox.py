"""A Jinja environment for templates from strangers: no way out, no endless work, `{% generation %}`.

Every loop turn, call, filter and printed character spends from a budget, so that a template ends
in bounded time and memory. The `generation` tag prints a mark before and after its body; what
stands between the marks is trained.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Sized
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SOURCE_CHARS = 200_000
MAX_COST = 20_000_000
"""Characters that one rendering may make; a loop turn counts as TURN_COST of them."""
TURN_COST = 20
MAX_SECONDS = 5.0
"""Backstop for costs that are not counted; the budget ends a hostile template long before."""
MAX_NUMBER = 1_000_000
"""Largest number given to a call or filter, or made by * and **: widths and counts."""

OPEN_NAME, CLOSE_NAME = "generation_open_", "generation_close_"
"""Variables that hold the two marks; the templates's own names cannot collide by accident."""

FILTERS = (
    "abs attr batch capitalize count d default dictsort e escape first float groupby indent int "
    "items join last length list lower map max min reject rejectattr replace reverse round safe "
    "select selectattr slice sort string sum title trim unique upper wordcount"
).split()
WIDE_FORMAT = re.compile(r"\d{4,}|\*")


class Budget(threading.local):
    """What the rendering in this thread may still spend."""

    left: float = MAX_COST
    deadline: float = 0.0

    def restart(self) -> None:
        """Begin a rendering."""
        self.left = MAX_COST
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self, cost: int) -> None:
        """Pay, or end the rendering.

        Raises:
            SecurityError: the budget or the time is used up.
        """
        self.left -= cost
        if self.left < 0:
            raise SecurityError(f"the template makes more than {MAX_COST:,} characters of work")

    def turn(self, literal_chars: int) -> None:
        """Pay for one turn of a loop or one call of a macro, with its literal text."""
        self.spend(TURN_COST + literal_chars)
        if time.monotonic() > self.deadline:
            raise SecurityError(f"the template runs longer than {MAX_SECONDS:.0f} seconds")

    def pay(self, value: Any) -> Any:
        """Pay for a value by its length, and give it back."""
        if isinstance(value, Sized):
            self.spend(len(value))
        elif isinstance(value, int) and abs(value) > MAX_NUMBER**2:
            raise SecurityError(f"the template makes a number above {MAX_NUMBER**2:,}")
        return value


BUDGET = Budget()


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: loss is taken on what the body prints."""

    tags = {"generation"}

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
        super().__init__(finalize=BUDGET.pay, **_DIALECT)
        self.filters = {name: _metered(self.filters[name]) for name in FILTERS}
        self.filters["tojson"] = _metered(to_json)
        self.globals = {
            name: self.globals[name] for name in ("cycler", "dict", "joiner", "namespace", "range")
        }
        self.globals["raise_exception"] = _raise_exception
        self.turn = BUDGET.turn
        self.concat_metered = _concat

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for kind in (nodes.For, nodes.Macro, nodes.CallBlock):
            for node in tree.find_all(kind):
                literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
                node.body.insert(0, _call_statement("turn", nodes.Const(literal), node.lineno))
        return _meter_concatenations(tree)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Refuse at once; Jinja's own answer prints as an empty text when nothing follows."""
        raise SecurityError(f"access to attribute {attribute!r} is unsafe")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result is paid for, after a check that it stays small."""
        if operator in ("*", "**"):
            _check_growth(operator, left, right)
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        return BUDGET.pay(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call whose numbers are small and whose result is paid for."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            BUDGET.spend(len(owner) + TURN_COST)
            if name in ("format", "format_map"):
                _check_format(owner)
            elif name in ("expandtabs", "translate"):
                raise SecurityError(f"str.{name} is not offered to templates")
            elif name == "replace" and len(args) > 1:
                BUDGET.spend(_replacement_chars(owner, args[0], args[1]))
            elif name == "join" and args:
                args = (_check_join(owner, args[0]), *args[1:])
        _check_numbers((*args, *kwargs.values()))
        return BUDGET.pay(super().call(__context, __obj, *args, **kwargs))


@lru_cache(maxsize=1)
def _sandbox() -> Sandbox:
    return Sandbox()


@lru_cache(maxsize=1)
def _unmetered() -> ImmutableSandboxedEnvironment:
    """The same dialect without a budget, for the templates of the library."""
    return ImmutableSandboxedEnvironment(**_DIALECT)


@lru_cache(maxsize=256)
def compile_template(source: str, trusted: bool = False) -> Template:
    """A template, compiled once.

    Raises:
        jinja2.exceptions.TemplateError: syntax, unknown filters, or a source that is too long.
    """
    if len(source) > MAX_SOURCE_CHARS:
        raise JinjaError(f"the template has more than {MAX_SOURCE_CHARS:,} characters")
    BUDGET.restart()
    return (_unmetered() if trusted else _sandbox()).from_string(source)


@lru_cache(maxsize=256)
def marks_generation(source: str) -> bool:
    """Whether a template has `{% generation %}` blocks."""
    return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source) is not None


@lru_cache(maxsize=256)
def reads_content_as_parts(source: str) -> bool:
    """Whether a template loops over `content`, as those of vision models do."""
    tree = _sandbox().parse(source)
    return any(
        _names_content(inner)
        for loop in tree.find_all(nodes.For)
        for inner in (loop.iter, *loop.iter.find_all((nodes.Getattr, nodes.Getitem)))
    )


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


def _names_content(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return False


def _call_statement(attribute: str, argument: nodes.Expr, line: int) -> nodes.Node:
    target = nodes.EnvironmentAttribute(attribute)
    return nodes.ExprStmt(nodes.Call(target, [argument], [], None, None)).set_lineno(line)


def _meter_concatenations(tree: nodes.Template) -> nodes.Template:
    """Turn every `a ~ b` into a call that pays for the text."""
    for node in tree.find_all(nodes.Node):
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, field, _metered_concat(value))
            elif isinstance(value, list):
                value[:] = [
                    _metered_concat(item) if isinstance(item, nodes.Concat) else item
                    for item in value
                ]
    return tree


def _metered_concat(node: nodes.Concat) -> nodes.Expr:
    call = nodes.Call(nodes.EnvironmentAttribute("concat_metered"), node.nodes, [], None, None)
    return call.set_lineno(node.lineno)


def _concat(*parts: Any) -> str:
    texts = [str(part) for part in parts]
    BUDGET.spend(sum(map(len, texts)))
    return "".join(texts)


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose numbers are small and whose input and result are paid for."""

    @wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        _check_numbers((*args, *kwargs.values()))
        texts = [arg for arg in args if isinstance(arg, str)]
        BUDGET.spend(TURN_COST + sum(map(len, texts)))
        if function.__name__ == "do_replace" and len(texts) > 2:
            BUDGET.spend(_replacement_chars(*texts[:3]))
        if function.__name__ in ("do_indent", "sync_do_join") and len(texts) > 1:
            _check_growth("*", texts[0], len(texts[1]))
        return BUDGET.pay(function(*args, **kwargs))

    return metered


def _replacement_chars(text: str, old: Any, new: Any) -> int:
    return text.count(str(old)) * len(str(new))


def _check_join(separator: str, items: Any) -> list[Any]:
    items = list(items)
    BUDGET.spend(len(separator) * len(items) + sum(len(i) for i in items if isinstance(i, str)))
    return items


def _check_growth(operator: str, left: Any, right: Any) -> None:
    sizes = [len(value) if isinstance(value, Sized) else value for value in (left, right)]
    if not all(isinstance(size, int | float) for size in sizes):
        return
    too_big = (
        abs(sizes[0] * sizes[1]) > MAX_NUMBER**2
        if operator == "*" and not any(isinstance(v, Sized) for v in (left, right))
        else abs(sizes[0] * sizes[1]) > MAX_NUMBER
        if operator == "*"
        else abs(sizes[0]) > MAX_NUMBER or abs(sizes[1]) > 64
    )
    if too_big:
        raise SecurityError(f"{operator} would make something larger than {MAX_NUMBER:,}")


def _check_format(text: str) -> None:
    if WIDE_FORMAT.search(text):
        raise SecurityError("a format with a width above 999 is not offered to templates")


def _check_numbers(values: tuple[Any, ...]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"a number above {MAX_NUMBER:,} is not accepted by calls")


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise JinjaError(message)
