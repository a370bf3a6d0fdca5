"""A template's tree, changed so that what Jinja hands to Python at once is paid for.

Loops and macros pay for every turn; slices for the copy; lists, comparisons and `~` for all that
is in their operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from jinja2 import nodes

REPEATED = (nodes.For, nodes.Macro, nodes.CallBlock)
"""Statements whose body may run more than once."""
_EQUALITY = {"eq", "ne"}
_LOOK_UPS = {"in", "notin"}


def metered(tree: nodes.Template) -> nodes.Template:
    """The tree with calls of the budget, which the environment has under the same names."""
    every = list(walk([tree]))
    for node in every:
        if isinstance(node, REPEATED):
            cost = nodes.Const(_literal_chars(node.body))
            node.body.insert(0, nodes.ExprStmt(_call("turn", [cost]), lineno=1))
        elif isinstance(node, nodes.Compare):
            _meter_comparison(node)
    for node in every:
        _replace_expressions(node, _paid)
    return tree


def walk(
    roots: Iterable[nodes.Node], leave_out: tuple[type[nodes.Node], ...] = ()
) -> Iterator[nodes.Node]:
    """Every node, once; Jinja's own `find_all` goes through each as often as it is deep.

    Args:
        roots: where to begin.
        leave_out: kinds whose bodies are not walked through.
    """
    ahead = list(roots)
    while ahead:
        node = ahead.pop()
        yield node
        exclude = ("body",) if isinstance(node, leave_out) else None
        ahead.extend(node.iter_child_nodes(exclude))


def _literal_chars(body: list[nodes.Node]) -> int:
    """Characters that a body prints as they are; bodies inside pay for their own."""
    return sum(
        len(node.data) for node in walk(body, REPEATED) if isinstance(node, nodes.TemplateData)
    )


def _meter_comparison(compare: nodes.Compare) -> None:
    """Weigh both sides, unless one is written in the template: it ends the walk soon."""
    sides = [compare.expr, *[operand.expr for operand in compare.ops]]
    kinds = {operand.op for operand in compare.ops}
    if kinds <= _EQUALITY and any(isinstance(side, nodes.Const) for side in sides):
        return
    compare.expr = _weighed("weigh", compare.expr)
    for operand in compare.ops:
        operand.expr = _weighed("searched" if operand.op in _LOOK_UPS else "weigh", operand.expr)


def _weighed(how: str, node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _call(how, [node])


def _paid(node: nodes.Node) -> nodes.Node:
    """What an expression becomes."""
    if isinstance(node, nodes.Concat):
        return _call("joined", node.nodes)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _call("pay", [node])
    if isinstance(node, nodes.Tuple) and node.ctx != "load":
        return node
    if isinstance(node, nodes.List | nodes.Tuple | nodes.Dict):
        return node if _is_constant(node) else _call("weigh", [node])
    return node


def _is_constant(node: nodes.List | nodes.Tuple | nodes.Dict) -> bool:
    return all(isinstance(item, nodes.Const) for item in node.items)


def _replace_expressions(node: nodes.Node, change: Callable[[nodes.Node], nodes.Node]) -> None:
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(node, field, change(value))
        elif isinstance(value, list):
            value[:] = [change(item) if isinstance(item, nodes.Node) else item for item in value]


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
