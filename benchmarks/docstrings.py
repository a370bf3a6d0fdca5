"""Conversations of real prose for benchmarks, from the docstrings of Python and its packages."""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions

_DOCSTRING = re.compile(r'"""(.{200,4000}?)"""', re.DOTALL)


def make_docstrings(folder: Path, lengths: Sequence[int], shards: int) -> list[Path]:
    """Datasets of text conversations, each in a drawn order; no docstring is in two of them.

    Args:
        folder: to write in.
        lengths: characters that each dataset has at least, while there are docstrings.
        shards: of each.
    """
    docstrings = _docstrings()
    return [
        _convert(folder / f"docstrings-{number}", docstrings, length, shards)
        for number, length in enumerate(lengths)
    ]


def _convert(out: Path, docstrings: Iterator[tuple[str, str]], length: int, shards: int) -> Path:
    records = []
    for name, text in docstrings:
        question = {"from": "human", "value": f"What does {name} say?"}
        answer = {"from": "gpt", "value": text}
        records.append({"id": len(records), "conversations": [question, answer]})
        length -= len(text)
        if length <= 0:
            break
    source = out.with_suffix(".json")
    source.write_text(json.dumps(records))
    options = ConvertOptions(shuffle=1, shard_count=-(-len(records) // shards), workers=4)
    convert(source, None, out, options)
    return out


def _docstrings() -> Iterator[tuple[str, str]]:
    roots = sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]
    seen = set()
    for root in roots:
        for file in sorted(Path(root).rglob("*.py")):
            for text in _DOCSTRING.findall(file.read_text(errors="ignore")):
                text = text.replace("<image>", "image").replace("\0", "").strip()
                if text and text not in seen:
                    seen.add(text)
                    yield f"{file.parent.name}.{file.stem}", text
