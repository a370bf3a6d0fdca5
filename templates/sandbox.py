"""A Jinja environment for templates from strangers: no way out, no endless work.

Every loop turn, call, filter and printed character spends from a budget, so that a template ends
in bounded time and memory. The `{% generation %}` tag prints a mark before and after its body;
what stands between the marks is trained.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .budget import (
    BUDGET,
    MAX_SOURCE_CHARS,
    TURN_COST,
    check_format,
    check_growth,
    check_join,
    check_numbers,
    check_replace,
    to_json,
)
from .filters import metered_filters, metered_tests
from .metered import metered
from .parts import takes_parts
from .sought import sought_texts

OPEN_NAME, CLOSE_NAME = "generation_open_", "generation_close_"
"""Variables that hold the two marks."""
_REFUSED = {"encode", "expandtabs", "maketrans", "striptags", "to_bytes", "translate"}
"""Methods that multiply a text, or make bytes, which have ways of their own to do so."""
_COMPARE_EACH = {"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"}
"""Methods that may compare every character with every one of their argument."""


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


class _PaidCode(CodeGenerator):
    """Python code for a template; a template may be written so that this takes long."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """The code of a node, within the budget."""
        BUDGET.spend(1)
        return super().visit(node, *args, **kwargs)


class Sandbox(ImmutableSandboxedEnvironment):
    """Chat-template dialect of Jinja, without any way to run for long or to reach Python."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])
    code_generator_class = _PaidCode

    def __init__(self) -> None:
        # The optimizer tries each part of an expression anew for each part that it stands in.
        super().__init__(finalize=BUDGET.weigh, optimized=False, **_DIALECT)
        self.filters = metered_filters(self.filters)
        self.tests = metered_tests(self.tests)
        self.globals = {
            name: self.globals[name] for name in ("cycler", "dict", "joiner", "namespace", "range")
        }
        self.globals["raise_exception"] = _raise_exception
        self.turn, self.pay, self.weigh = BUDGET.turn, BUDGET.pay, BUDGET.weigh
        self.searched, self.joined = BUDGET.searched, BUDGET.joined

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return metered(super()._parse(source, name, filename))

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Refuse at once; Jinja's own answer prints as an empty text when nothing follows."""
        raise SecurityError(f"access to attribute {attribute!r} is unsafe")

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An attribute; filters look up long chains of them for many items."""
        BUDGET.spend(1)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item, after the walk through its key is paid for."""
        BUDGET.spend(1)
        if isinstance(argument, tuple):
            BUDGET.weigh(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format`, confined and paid for."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def paid(*args: Any, **kwargs: Any) -> Any:
            check_format(value.__self__, "{", (*args, kwargs))
            return wrapped(*args, **kwargs)

        return paid

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result is paid for, after a check that it stays small."""
        if operator in ("*", "**"):
            check_growth(operator, left, right)
        elif operator == "%" and isinstance(left, str):
            check_format(left, "%", right)
        return BUDGET.pay(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call whose numbers are small and whose result is paid for."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if owner is BUDGET:
            return __obj(*args)
        # A macro does nothing to its arguments; what its body does is paid for there.
        if not isinstance(__obj, Macro):
            BUDGET.weigh((args, kwargs))
        if isinstance(owner, str | int | list | tuple | bytes):
            args = _check_method(owner, name, args, kwargs)
        return BUDGET.pay(super().call(__context, __obj, *args, **kwargs))


def _check_method(
    owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """The arguments of a method, after what it will do is paid for."""
    if name in _REFUSED or isinstance(owner, bytes):
        raise SecurityError(f"{type(owner).__name__}.{name} is not offered to templates")
    if name in ("join", "replace") and kwargs:
        raise SecurityError(f"str.{name} takes no names of arguments")
    BUDGET.spend(TURN_COST)
    if not isinstance(owner, str):
        BUDGET.weigh(owner)
    check_numbers((*args, *kwargs.values()) if isinstance(owner, str | int) else ())
    if isinstance(owner, str):
        BUDGET.spend(len(owner))
        if name in _COMPARE_EACH:
            BUDGET.spend(len(owner) * sum(len(arg) for arg in args if isinstance(arg, str)))
        elif name == "replace" and len(args) > 1:
            check_replace(owner, args[0], args[1])
        elif name == "join" and args:
            return check_join(owner, args[0]), *args[1:]
    return args


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
    template = (_unmetered() if trusted else _sandbox()).from_string(source)
    # Copied for each conversation, which takes longer from Jinja's chain of dictionaries.
    template.globals = dict(template.globals)
    return template


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


@lru_cache(maxsize=256)
def tags_looked_for(source: str) -> tuple[str, ...]:
    """Tags that a template looks for in messages; none in one that cannot be parsed."""
    try:
        _check_length(source)
        sought = sought_texts(_unmetered().parse(source))
    except (JinjaError, RecursionError):
        return ()
    return tuple(sorted(text for text in sought if text[0] in "<["))


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
    BUDGET.restart(variables)
    blocks = []
    for block in template.generate(variables):
        BUDGET.spend(len(block))
        blocks.append(block)
    return "".join(blocks)


def _check_length(source: str) -> None:
    if len(source) > MAX_SOURCE_CHARS:
        raise JinjaError(f"the template has more than {MAX_SOURCE_CHARS:,} characters")


def _raise_exception(message: str) -> None:
    raise JinjaError(message)
