"""The files of a finished shard in the journal's folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .files import write_file
from .quarantine import Rejected
from .shard import ShardResult


def save_result(folder: Path, result: ShardResult, rejected: list[Rejected]) -> None:
    """Note in a journal's folder that a shard is done, and which records it rejected.

    Raises:
        ShardError: the disk refuses.
    """
    save_encoded(folder, result.name, *encode_result(result, rejected))


def encode_result(result: ShardResult, rejected: list[Rejected]) -> tuple[bytes, bytes]:
    """The two files of a finished shard: its result, and the records that it rejected."""
    return msgspec.json.encode(result), _lines(rejected)


def save_encoded(folder: Path, name: str, result: bytes, rejected: bytes) -> None:
    """Put the files of a finished shard into a journal's folder; see `encode_result`.

    Raises:
        ShardError: the disk refuses.
    """
    write_file(folder / f"{name}.rejected.jsonl", rejected)
    # Last: it is what makes the shard count as done.
    write_file(folder / f"{name}.json", result)


def save_rejected(folder: Path, name: str, rejected: list[Rejected]) -> None:
    """Store rejected records in a journal's folder.

    Raises:
        ShardError: the disk refuses.
    """
    write_file(folder / f"{name}.rejected.jsonl", _lines(rejected))


def _lines(rejected: list[Rejected]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rejected)
