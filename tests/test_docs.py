"""The Python that the pages show: what it imports is there, and what it calls can be called."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}.*\n(?:[ \t]*\n)*)+", re.MULTILINE)
IMPORTS_OURS = re.compile(r"^\s*(from|import) neva_prep\b", re.MULTILINE)


def examples(page: str) -> list[str]:
    """Code blocks, fenced and indented, that import something of ours."""
    fenced = FENCED.findall(page)
    indented = map(textwrap.dedent, INDENTED.findall(FENCED.sub("", page)))
    return [block for block in [*fenced, *indented] if IMPORTS_OURS.search(block)]


def imported(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """Each name that a block imports from us, with what it then stands for.

    Said twice: as it is, and once a module of that name was imported, which takes the name's place.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "neva_prep":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                with suppress(AttributeError):
                    yield alias.asname or alias.name, getattr(module, alias.name)
                with suppress(ModuleNotFoundError):
                    importlib.import_module(f"{node.module}.{alias.name}")
                yield alias.asname or alias.name, getattr(module, alias.name)


def calls(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Each call of a name, or of an attribute of one: the name, and the attributes after it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            attributes: list[str] = []
            while isinstance(function, ast.Attribute):
                attributes.insert(0, function.attr)
                function = function.value
            if isinstance(function, ast.Name):
                yield function.id, attributes


def check(block: str) -> None:
    """Import what a block imports, and see that it may call what it calls of it."""
    tree = ast.parse(block)
    called = list(calls(tree))
    assigned = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for name, found in imported(tree):
        for function, attributes in called:
            if function == name and name not in assigned:
                target = found
                for attribute in attributes:
                    target = getattr(target, attribute)
                assert callable(target), f"{'.'.join((name, *attributes))} is {target!r}"


def test_pages_have_examples() -> None:
    found = {page.name: len(examples(page.read_text())) for page in PAGES}
    assert found["README.md"] and found["images.md"] and found["loaders.md"]
    assert sum(found.values()) > 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_import_and_call_what_is_there(page: Path) -> None:
    for block in examples(page.read_text()):
        check(block)


def test_a_module_in_the_place_of_a_function_is_seen() -> None:
    check("from neva_prep.loaders.decode import decode_image as read\nread(b'')\n")
    with pytest.raises(AssertionError, match=r"vlm is <module"):
        check("from neva_prep import vlm\nvlm()\n")
    with pytest.raises(AttributeError):
        check("from neva_prep.loaders import nothing_of_this_name\n")
    with pytest.raises(AttributeError):
        check("from neva_prep import vlm\nvlm.nothing_of_this_name()\n")
