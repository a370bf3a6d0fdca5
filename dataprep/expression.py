"""The language of `--filter`: comparisons over a record's values, in Python's spelling, never run.

An expression is parsed, held against an allowlist, and turned into nested functions. No part of it
can call anything else, repeat anything, or take longer than its texts are long.

What cannot be said of a record is UNKNOWN, as in SQL: `width >= 224` of one without an image.
`and`, `or` and `not` reckon with it: `width >= 224 or images == 0` is true there all the same.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import ConfigError
from .expression_values import (
    ARITHMETIC,
    COMPARISONS,
    FUNCTIONS,
    UNKNOWN,
    Function,
    Unknown,
    apply,
    item,
    negate,
    negative,
    truth,
)

MAX_CHARACTERS = 2000
_MAX_DEPTH = 50


Look = Callable[[str], Any]
"""Gives a record's value by name; None where it has no such field."""
Evaluate = Callable[[Look], Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression, ready for any number of records."""

    text: str
    """As the user wrote it."""
    names: frozenset[str]
    """Of the values that it looks at."""
    evaluate: Evaluate

    def of(self, look: Look) -> bool | Unknown:
        """Whether it holds for a record."""
        return truth(self.evaluate(look))


def parse_expression(text: str, functions: dict[str, Callable[..., Any]]) -> Expression:
    """Parse an expression.

    Args:
        text: as the user wrote it.
        functions: those of one text that may be called beside len, min, max, abs, lower,
            startswith, endswith and count.

    Raises:
        ConfigError: it is wrong; the message shows where.
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS or "\n" in text:
        raise ConfigError(f"--filter: give one line of at most {MAX_CHARACTERS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        _refuse(text, error.offset - 1 if error.offset else len(text), error.msg)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"--filter {text!r}: cannot be read: {error}; simplify it") from error
    parser = _Parser(text, {**FUNCTIONS, **{name: (own, 1) for name, own in functions.items()}})
    evaluate = parser.part(tree.body, 0)
    return Expression(text, frozenset(parser.names), evaluate)


class _Parser:
    """Turns a tree into nested functions, and gathers the names in it."""

    def __init__(self, text: str, functions: dict[str, Function]) -> None:
        self.text = text
        self.functions = functions
        self.names: set[str] = set()

    def part(self, node: ast.expr, depth: int) -> Evaluate:
        if depth > _MAX_DEPTH:
            self.refuse(node, "is nested too deeply")
        kind = type(node).__name__
        method = getattr(self, f"_{kind.lower()}", None) if isinstance(node, _ALLOWED) else None
        if method is None:
            self.refuse(node, f"{_PLAIN.get(kind, kind)} cannot be used here")
        made: Evaluate = method(node, depth + 1)
        return made

    def refuse(self, node: ast.AST, what: str) -> NoReturn:
        column = len(self.text.encode()[: getattr(node, "col_offset", 0)].decode())
        _refuse(self.text, column, what)

    def _constant(self, node: ast.Constant, depth: int) -> Evaluate:
        value = node.value
        if not isinstance(value, str | int | float | bool | None):
            self.refuse(node, f"{value!r} is no text or number")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            self.refuse(node, "the number is too large")
        return lambda look: value

    def _name(self, node: ast.Name, depth: int) -> Evaluate:
        name = node.id
        if name in self.functions:
            self.refuse(node, f"{name} is a function: write {name}(...)")
        self.names.add(name)
        return lambda look: look(name)

    def _attribute(self, node: ast.Attribute, depth: int) -> Evaluate:
        inner, name = self.part(node.value, depth), node.attr
        return lambda look: item(inner(look), name)

    def _subscript(self, node: ast.Subscript, depth: int) -> Evaluate:
        if not isinstance(node.slice, ast.Constant | ast.UnaryOp):
            self.refuse(node.slice, "only a number or a text may stand in [ ]")
        inner, place = self.part(node.value, depth), self.part(node.slice, depth)
        return lambda look: item(inner(look), place(look))

    def _list(self, node: ast.List | ast.Tuple | ast.Set, depth: int) -> Evaluate:
        parts = [self.part(element, depth) for element in node.elts]
        return lambda look: [part(look) for part in parts]

    _tuple = _set = _list

    def _call(self, node: ast.Call, depth: int) -> Evaluate:
        if not isinstance(node.func, ast.Name) or node.func.id not in self.functions:
            self.refuse(node, f"no such function; there are {', '.join(sorted(self.functions))}")
        function, count = self.functions[node.func.id]
        if node.keywords or (len(node.args) != count if count else not node.args):
            self.refuse(node, f"{node.func.id} takes {count or '1 or more'} values")
        parts = [self.part(argument, depth) for argument in node.args]
        return lambda look: apply(function, *(part(look) for part in parts))

    def _boolop(self, node: ast.BoolOp, depth: int) -> Evaluate:
        parts = [self.part(value, depth) for value in node.values]
        decides = isinstance(node.op, ast.Or)

        def evaluate(look: Look) -> bool | Unknown:
            found: bool | Unknown = not decides
            for part in parts:
                holds = truth(part(look))
                if holds is decides:
                    return decides
                found = holds if holds is UNKNOWN else found
            return found

        return evaluate

    def _unaryop(self, node: ast.UnaryOp, depth: int) -> Evaluate:
        inner = self.part(node.operand, depth)
        if isinstance(node.op, ast.Not):
            return lambda look: negate(truth(inner(look)))
        if isinstance(node.op, ast.USub):
            return lambda look: apply(negative, inner(look))
        self.refuse(node, "only 'not' and '-' may stand before a value")

    def _binop(self, node: ast.BinOp, depth: int) -> Evaluate:
        calculate = ARITHMETIC.get(type(node.op))
        if calculate is None:
            self.refuse(node, "only + - * / // and % may stand between two values")
        left, right = self.part(node.left, depth), self.part(node.right, depth)
        return lambda look: apply(calculate, left(look), right(look))

    def _compare(self, node: ast.Compare, depth: int) -> Evaluate:
        parts = [self.part(value, depth) for value in (node.left, *node.comparators)]
        tests = [COMPARISONS[type(op)] for op in node.ops]

        def evaluate(look: Look) -> bool | Unknown:
            left = parts[0](look)
            found: bool | Unknown = True
            for test, part in zip(tests, parts[1:], strict=True):
                right = part(look)
                holds = apply(test, left, right)
                if holds is False:
                    return False
                found, left = (holds if holds is UNKNOWN else found), right
            return found

        return evaluate


def _refuse(text: str, column: int, what: str) -> NoReturn:
    raise ConfigError(
        f"--filter: character {column + 1}: {what}; correct it there\n  {text}\n  {' ' * column}^"
    )


_ALLOWED = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.List, ast.Tuple, ast.Set),
    *(ast.Call, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare),
)
_PLAIN = {
    "IfExp": "'if'",
    "Lambda": "'lambda'",
    "JoinedStr": "an f'...'",
    "NamedExpr": "':='",
    "Starred": "'*'",
    "ListComp": "'for'",
    "GeneratorExp": "'for'",
    "Dict": "{...}",
    "Slice": "':'",
}
