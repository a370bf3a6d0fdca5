"""What a template looks for inside the messages' texts, such as the end of a thought.

A template of a model that thinks parts an answer: `content.split('</think>')`. What it looks for
there is structure to it, wherever else the same text would be data.
"""

from __future__ import annotations

from typing import TypeGuard

from jinja2 import nodes

from .metered import walk

_SEARCHES = {
    *("split", "rsplit", "partition", "rpartition", "startswith", "endswith"),
    *("find", "rfind", "index", "rindex", "replace", "removeprefix", "removesuffix"),
}


def sought_texts(tree: nodes.Template) -> frozenset[str]:
    """Constants that a template looks for in texts, by `in` or by a method."""
    found: set[str] = set()
    for node in walk([tree]):
        if isinstance(node, nodes.Compare):
            if any(operand.op in ("in", "notin") for operand in node.ops):
                found |= _texts([node.expr])
        elif _is_search(node):
            found |= _texts(node.args[:1])
    return frozenset(found - {""})


def _is_search(node: nodes.Node) -> TypeGuard[nodes.Call]:
    called = node.node if isinstance(node, nodes.Call) else None
    return isinstance(called, nodes.Getattr) and called.attr in _SEARCHES


def _texts(values: list[nodes.Expr]) -> set[str]:
    return {
        value.value
        for value in values
        if isinstance(value, nodes.Const) and isinstance(value.value, str)
    }
