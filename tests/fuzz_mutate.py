"""What strangers' files can be like: values, bytes and files changed at random, from a seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1 << 70, 1.5, 1e308, "", " ", "\n", "\0", "\ud800", "x" * 3000),
    *([], {}, [[]], [None], {"": None}, [1, "a"], {"url": None}, [[[[[[[[]]]]]]]]),
    *("<image>", "<image><image>", "<ImageHere>", "<image1>", "<image0>", "<image99999999999>"),
    *("<img>a.jpg</img>", "<img>", "</img>", '<img src="b.png">', "<|image|>", "<video>"),
    *("../secret.jpg", "/etc/passwd", "http://x/a.jpg", "s3://x/a.jpg", "a.jpg/", "./a.jpg"),
    *(
        "sub/../a.jpg",
        "..",
        ".",
        "sub",
        "~",
        "a.jpg\0",
        "C:\\a.jpg",
        "link.jpg",
        "A.JPG",
        "a" * 300,
    ),
    *("data:image/png;base64,", "data:image/png;base64,iVBORw0KGgo=", "data:,x", "embedded:0.png"),
    *("human", "gpt", "user", "system", "assistant", "tool", "text", "HUMAN"),
    *("a.jpg", ["a.jpg"], {"path": "b.png"}, {"bytes": "!!"}, {"bytes": [1]}, [["a.jpg"]]),
]
NAMES = (
    *("id", "image", "images", "conversations", "messages", "conversation", "from", "value"),
    *("role", "content", "type", "text", "texts", "question", "answer", "answers", "caption"),
    *("video", "system", "history", "text_list", "image_info", "matched_text_index", "vqa"),
    *("query", "response", "instruction", "output", "tools", "index", "url", "bytes", "path"),
)
PIECES = (
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\u", b"\\ud800", b"\n", b"\r\n", b"\0"),
    *(b"null", b"NaN", b"Infinity", b"-", b"1e999", b"9" * 5000, b"[" * 2000, b'{"a":' * 2000),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xc0\x80", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\x1b[2J"),
    *(b"<image>", b"../", b"\x7f", b" " * 600, b"\x00" * 600, b"\xff\xd8", b"PK\x05\x06", b"PAR1"),
)


def mutate_rows(rows: list[Any], random: Random) -> None:
    """Change a few values of records, in place."""
    for _ in range(random.choice((0, 1, 1, 2, 3, 6))):
        at, key = _place(rows, random)
        random.choice(_CHANGES)(at, key, random)


def _place(rows: list[Any], random: Random) -> tuple[Any, Any]:
    """A container and the key or index of a value in it, each depth as likely."""
    found: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        inside = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in list(inside):
            found.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(rows)
    return random.choice(found) if found else (rows, 0)


def _replace(at: Any, key: Any, random: Random) -> None:
    if at:
        at[key] = deepcopy(random.choice(ODD))


def _remove(at: Any, key: Any, random: Random) -> None:
    if at:
        del at[key]


def _rename(at: Any, key: Any, random: Random) -> None:
    if isinstance(at, dict):
        at[random.choice(NAMES)] = at.pop(key)
    elif at:
        at[key] = {random.choice(NAMES): at[key]}


def _repeat(at: Any, key: Any, random: Random) -> None:
    if isinstance(at, list) and at:
        at.insert(random.randrange(len(at) + 1), at[key])
    elif isinstance(at, dict):
        at[random.choice(NAMES)] = at[key]


def _swap(at: Any, key: Any, random: Random) -> None:
    if at:
        other = random.choice(list(at) if isinstance(at, dict) else range(len(at)))
        at[key], at[other] = at[other], at[key]


def _wrap(at: Any, key: Any, random: Random) -> None:
    if at:
        at[key] = [at[key]] if random.random() < 0.5 else {random.choice(NAMES): at[key]}


def _stretch(at: Any, key: Any, random: Random) -> None:
    """Put a mark or another odd text into a text, or a text into a list."""
    if not at:
        return
    if isinstance(at[key], str):
        odd = random.choice([text for text in ODD if isinstance(text, str)])
        cut = random.randrange(len(at[key]) + 1)
        at[key] = at[key][:cut] + odd + at[key][cut:]
    elif isinstance(at[key], list):
        at[key].append(deepcopy(random.choice(ODD)))


_CHANGES: tuple[Callable[[Any, Any, Random], None], ...] = (
    *(_replace, _replace, _remove, _rename, _repeat, _swap, _wrap, _stretch, _stretch),
)


def overwrite_bytes(data: bytes, random: Random) -> bytes:
    """Change a few bytes of a file, and leave all others in their places."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 8)) if data else 0):
        at = random.randrange(len(changed))
        new = random.choice(
            (random.randbytes(random.choice((1, 2, 4, 8))), random.choice(PIECES)[:16])
        )
        changed[at : at + len(new)] = new[: len(changed) - at]
    return bytes(changed)


def mutate_bytes(data: bytes, random: Random, others: list[bytes]) -> bytes:
    """Change a few places of a file."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        at = random.randrange(len(changed) + 1)
        end = min(len(changed), at + random.choice((1, 1, 2, 4, 16, 64, 512)))
        kind = random.randrange(8)
        if kind == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << random.randrange(8)
        elif kind == 1:
            changed[at:end] = random.randbytes(end - at)
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            changed[at:at] = random.choice(PIECES)
        elif kind == 4:
            changed[at:end] = random.choice(PIECES)
        elif kind == 5:
            changed[at:at] = changed[at:end] * random.choice((1, 2, 30))
        elif kind == 6:
            del changed[at:]
        else:
            other = random.choice(others)
            changed[at:at] = other[random.randrange(len(other) + 1) :][:512]
    return bytes(changed)


def mutate_files(folder: Path, names: list[str], random: Random) -> None:
    """Put something else where a file is."""
    path = folder / random.choice(names)
    path.unlink(missing_ok=True)
    kind = random.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(folder.parent / "secret.jpg")
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        path.touch()
    elif kind == 4:
        path.symlink_to(path.name)
