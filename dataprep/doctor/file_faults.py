"""What breaks a source as a whole, and the edit or command that mends it."""

from __future__ import annotations

import re
from pathlib import Path

_PEEK_BYTES = 64 << 10
_COMMA = re.compile(rb",\s*(?=\]\s*$)")
_SECOND_ARRAY = re.compile(rb"\]\s*\[")
_PLACE = re.compile(r"byte (\d+)")
_NEAR = 200


def mend_file(path: Path, finding: str) -> list[str]:
    """Ways out for a file that is JSON, and yet not readable as a whole.

    Args:
        path: the file.
        finding: the message about it, which names the byte.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(_PEEK_BYTES)
            file.seek(max(0, size - _PEEK_BYTES))
            end = file.read()
            place = _PLACE.search(finding)
            at = int(place[1]) if place else 0
            file.seek(max(0, at - _NEAR))
            near = file.read(2 * _NEAR)
    except OSError:
        return []
    return list(_ways_out(begin, end, near, size - len(end), at))


def _ways_out(begin: bytes, end: bytes, near: bytes, end_at: int, at: int) -> list[str]:
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"["):
        return []
    comma = _COMMA.search(end)
    if comma:
        return [f"remove the comma before the closing ']': byte {end_at + comma.start()}"]
    if _SECOND_ARRAY.search(near):
        return ["arrays stand one after the other: jq -s add SOURCE > OUT.json joins them"]
    if re.search(rb"\}\s*\{", near):
        return [f"put a comma between the two records at byte {at}"]
    if re.match(rb"\[\s*\{\s*'", text):
        return [
            "this is Python's way to print a list, not JSON (single quotes): write it with "
            "json.dump"
        ]
    if re.search(rb",\s*,", near):
        return [f"remove the second of the two commas at byte {at}"]
    if not end.rstrip().endswith(b"]"):
        return [
            "its end is missing: copy or download it again; to keep the whole records, cut it "
            "behind the last '}' that ends one, and put ']' there"
        ]
    return []
