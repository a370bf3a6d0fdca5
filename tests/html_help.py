"""HTML read back by a parser that takes no fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import html5lib

SPACE = "{http://www.w3.org/1999/xhtml}"
LINKS = ("src", "href", "action", "srcset", "poster", "data", "formaction", "background")


def parse(text: str) -> Any:
    """The document; a fault in it fails the test."""
    return html5lib.HTMLParser(strict=True).parse(text)


def elements(tree: Any, name: str = "", css: str = "") -> list[Any]:
    """Elements by their name and one of their classes."""
    return [
        one
        for one in tree.iter()
        if isinstance(one.tag, str)
        and (not name or one.tag.removeprefix(SPACE) == name)
        and (not css or css in one.get("class", "").split())
    ]


def text_of(element: Any) -> str:
    """All text within."""
    return "".join(element.itertext())


def addresses(tree: Any) -> Iterator[tuple[str, str]]:
    """Every address that a browser would follow or load, with the attribute it stands in."""
    for element in elements(tree):
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in LINKS:
                yield name, value


def assert_nothing_runs(tree: Any) -> None:
    """No element has a handler, and no address is a program."""
    for element in elements(tree):
        assert not [name for name in element.attrib if name.startswith("on") or name == "style"]
    for _, address in addresses(tree):
        assert not address.strip().lower().startswith(("javascript:", "vbscript:", "data:text"))
