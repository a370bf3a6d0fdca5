"""Whether a template takes content as a list of parts, as those of vision models do.

Such a template loops over `content`: at once, in a macro that gets it, or through a variable.
Content is followed through these names; loops over tools, their parameters or documents, whose
items have a `type` and a `text` as well, say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes

from .metered import walk

KEEP_LISTS = {"d", "default", "list", "reverse", "select", "reject", "sort", "unique"}
"""Filters that give a list of parts when they get one."""
TAKE_PARTS = {"selectattr", "rejectattr", "groupby"}
"""Filters that look into the items of a list."""
MAX_NAMES = 8
"""Names that content is followed through, one after the other."""
FIELDS = {"text", "type"}
"""What a part has."""


def takes_parts(tree: nodes.Template) -> bool:
    """Whether some expression of a template takes content apart."""
    every = list(walk([tree]))
    names = _names_of_content(every)
    return any(
        _may_be_content(node.iter, names)
        if isinstance(node, nodes.For)
        else _looks_into_parts(node, names)
        for node in every
    )


def _names_of_content(every: list[nodes.Node]) -> set[str]:
    """Variables and parameters of macros that may hold content, wherever they are set."""
    bindings = list(_bindings(every))
    names: set[str] = set()
    for _ in range(MAX_NAMES):
        names |= {name for name, value in bindings if _may_be_content(value, names)}
    return names


def _bindings(every: list[nodes.Node]) -> Iterator[tuple[str, nodes.Node]]:
    macros = {node.name: node for node in every if isinstance(node, nodes.Macro)}
    for node in every:
        if isinstance(node, nodes.Assign):
            yield from _bound(node.target, node.node)
        elif isinstance(node, nodes.With):
            for target, value in zip(node.targets, node.values, strict=True):
                yield from _bound(target, value)
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
            macro = macros.get(node.node.name)
            names = [name.name for name in macro.args] if macro else []
            yield from zip(names, node.args, strict=False)
            yield from ((pair.key, pair.value) for pair in node.kwargs if macro)


def _bound(target: nodes.Node, value: nodes.Node) -> Iterator[tuple[str, nodes.Node]]:
    if isinstance(target, nodes.Name):
        yield target.name, value
    elif isinstance(target, nodes.Tuple) and isinstance(value, nodes.Tuple):
        for inner, item in zip(target.items, value.items, strict=False):
            yield from _bound(inner, item)


def _may_be_content(node: nodes.Node | None, names: set[str]) -> bool:
    """Whether an expression may give content as it came, not a text made of it."""
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.CondExpr):
        return _may_be_content(node.expr1, names) or _may_be_content(node.expr2, names)
    if isinstance(node, nodes.And | nodes.Or):
        return _may_be_content(node.left, names) or _may_be_content(node.right, names)
    if isinstance(node, nodes.Filter):
        kept = node.name in KEEP_LISTS | TAKE_PARTS
        return kept and _may_be_content(node.node, names)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _may_be_content(node.node, names)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        return node.node.attr == "get" and _is_constant(node.args[:1], {"content"})
    return _field(node) == "content"


def _looks_into_parts(node: nodes.Node, names: set[str]) -> bool:
    """`content|selectattr(…)`, `content|map(attribute='text')` or `content[0].text`."""
    if isinstance(node, nodes.Filter):
        looks = node.name in TAKE_PARTS or (
            node.name == "map" and any(keyword.key == "attribute" for keyword in node.kwargs)
        )
        return looks and _may_be_content(node.node, names)
    if _field(node) not in FIELDS or not isinstance(node, nodes.Getattr | nodes.Getitem):
        return False
    part = node.node
    return (
        isinstance(part, nodes.Getitem)
        and isinstance(part.arg, nodes.Const | nodes.Neg)
        and _may_be_content(part.node, names)
    )


def _field(node: nodes.Node | None) -> str | None:
    """The field that `a.field` or `a['field']` reads."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return node.arg.value if isinstance(node.arg.value, str) else None
    return None


def _is_constant(arguments: list[nodes.Expr], values: set[str]) -> bool:
    return any(isinstance(arg, nodes.Const) and arg.value in values for arg in arguments)
