"""A viewer in the background, and what it answers."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from convert_help import Converted, convert_in, record, text_record, turns
from html_help import elements, parse, text_of
from loader_help import tokenizer

from neva_prep.dataprep.look.open import Looked
from neva_prep.dataprep.look.settings import LookSettings
from neva_prep.dataprep.look.stops import Flow
from neva_prep.dataprep.viewer.catalogue import Catalogue
from neva_prep.loaders import ImageConfig


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def tree(self) -> Any:
        """The page, which must be valid."""
        return parse(self.body.decode())


def ask(url: str, *, method: str = "GET", **headers: str) -> Answer:
    """One request; its path is sent as it stands, and no redirect is followed."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        query = f"?{parts.query}" if parts.query else ""
        connection.putrequest(method, parts.path + query, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


def listed(answer: Answer) -> list[str]:
    """Ids on a page of the list."""
    return [text_of(name) for name in elements(answer.tree, css="name")]


def settings(**options: Any) -> LookSettings:
    """Small tiles and few embeddings."""
    return LookSettings(
        tokenizer=tokenizer(),
        images=ImageConfig(size=28, output="uint8"),
        num_image_embeddings_per_tile=4,
        **{"packed_sequence_size": 256, **options},
    )


def mixed(folder: Path, **options: Any) -> Converted:
    """Forty good records of several shapes, and three that are rejected."""
    records: list[Any] = []
    for number in range(40):
        talk = ["<image>\n" * (number % 3) + f"Question {number} {'so ' * number}", f"Yes {number}"]
        talk += ["And ÉTÉ?", "No"] * (number % 4)
        images = ["good.jpg"] * (number % 3) or ...
        records.append(record(f"row-{number:02d}", images, conversations=turns(*talk)))
    records.insert(5, record("bad-0", "absent.jpg"))
    records.insert(9, record("bad-1", conversations=turns("<image>\nWhy?", "")))
    records.append(text_record("bad-2", "Why?", ""))
    return convert_in(folder, records, **options)


@contextmanager
def catalogued(looked: Looked, *, tokens: bool = False) -> Iterator[Catalogue]:
    """A catalogue that is complete."""
    made = Catalogue(Flow(looked, settings() if tokens else None))
    made.start()
    try:
        assert made.wait()
        yield made
    finally:
        made.close()


def wait_for(url: str) -> None:
    """Until the catalogue of a viewer is complete."""
    while not json.loads(ask(f"{url}progress").body)["done"]:
        time.sleep(0.01)
