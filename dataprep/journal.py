"""The journal of an unfinished conversion: the plan, and what became of each finished shard.

It lies in OUT/.journal and is removed when the dataset is whole. A shard counts as done once its
result is here, which is written after its tar and index are durable.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from ..errors import ConfigError, ShardError
from .files import TEMPORARY_SUFFIX, sync_folder, temporary, told, write_file
from .plan import Plan, ShardPlan
from .quarantine import Rejected
from .shard import ShardResult, ShardSummary

RETRY_MARKER = "retry"
"""A file in a journal that a `--retry` began."""
OVERWRITE_MARKER = "overwrite"
"""A file in a journal while what was there before is being removed."""
ROWS_FILE = "plan.rows"
WORK_FOLDER = "work"
_LOCK = "lock"
_LOCK_SECONDS = 5.0


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """plan.json: the plan, and what it was made from."""

    inputs: dict[str, Any]
    """Fingerprint of the source, and the options that decide the output."""
    plan: Plan


_Stored = TypeVar("_Stored", bound=ShardSummary)


class _Index(msgspec.Struct):
    index: int


_decode_index = msgspec.json.Decoder(_Index).decode


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


class Journal:
    """The journal folder of one conversion, locked while the object lives."""

    def __init__(self, folder: Path) -> None:
        """Open or make a journal.

        Raises:
            ShardError: another conversion writes there, or the disk refuses.
        """
        self.folder = folder
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Workers inherit the lock: it is free once the last of them has gone.
            self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    self.close()
                    raise ShardError(
                        f"{folder.parent}: another conversion is writing here; wait for it"
                    ) from error
                time.sleep(0.05)

    @property
    def rows(self) -> Path:
        """File of the plan's rows."""
        return self.folder / ROWS_FILE

    @property
    def work(self) -> Path:
        """Folder of what was made of a source, and can be made again."""
        folder = self.folder / WORK_FOLDER
        with told(folder):
            folder.mkdir(exist_ok=True)
        return folder

    def save_plan(self, plan: Plan, inputs: dict[str, Any]) -> None:
        """Store a plan whose rows are written."""
        content = msgspec.json.encode(PlanFile(inputs=inputs, plan=plan))
        write_file(self.folder / "plan.json", content)

    def load_plan(self, inputs: dict[str, Any]) -> Plan | None:
        """The stored plan, or None where planning was not finished.

        Raises:
            ConfigError: it was made from another source or with other options.
        """
        path = self.folder / "plan.json"
        try:
            with told(path, "read"):
                content = path.read_bytes() if path.exists() else None
            if content is None:
                return None
            stored = msgspec.json.decode(content, type=PlanFile)
        except msgspec.DecodeError as error:
            raise ShardError(
                f"{path}: cannot be read ({error}); start again with --overwrite"
            ) from error
        same = msgspec.json.decode(msgspec.json.encode(inputs))
        differing = [name for name in same if same[name] != stored.inputs.get(name)]
        if differing:
            raise ConfigError(
                f"{self.folder.parent}: --resume needs what the conversion began with, but these "
                f"differ: {', '.join(differing)}; give the same again, or --overwrite"
            )
        return stored.plan

    def is_retry(self) -> bool:
        """Whether a `--retry` is under way, rather than a first conversion."""
        return (self.folder / RETRY_MARKER).exists()

    def is_overwrite(self) -> bool:
        """Whether what was there before is not wholly removed yet."""
        return (self.folder / OVERWRITE_MARKER).exists()

    def is_done(self, shard: ShardPlan) -> bool:
        """Whether a shard was finished, now or before."""
        return (self.folder / f"{shard.name}.json").exists()

    def summaries(self) -> Iterator[ShardSummary]:
        """Every finished shard in figures, sorted by name."""
        return self._read(ShardSummary)

    def results(self) -> Iterator[ShardResult]:
        """Every finished shard with its index, sorted by name, one at a time."""
        return self._read(ShardResult)

    def _read(self, kind: type[_Stored]) -> Iterator[_Stored]:
        decode = msgspec.json.Decoder(kind).decode
        for path in sorted(self.folder.glob("*.tar.json")):
            with told(path, "read"):
                content = path.read_bytes()
            yield decode(content)

    def rejected(self) -> Iterator[Rejected]:
        """Every rejected record of the finished shards, in the order of the source.

        Only their places are held in memory: rejected records can be as many as records.
        """
        together = self.folder / "rejected.tmp"
        index, start = array("Q"), array("Q", [0])
        with told(together), together.open("wb") as target:
            for path in sorted(self.folder.glob("*.rejected.jsonl")):
                with path.open("rb") as file:
                    for line in file:
                        index.append(_decode_index(line).index)
                        start.append(start[-1] + len(line))
                        target.write(line)
        decode = msgspec.json.Decoder(Rejected).decode
        with told(together, "read"):
            file = together.open("rb")
        with file:
            for place in np.argsort(np.asarray(index), kind="stable").tolist():
                with told(together, "read"):
                    file.seek(start[place])
                    row = file.read(start[place + 1] - start[place])
                yield decode(row)

    def close(self) -> None:
        """Unlock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """The dataset is whole: the journal has done its work.

        Raises:
            ShardError: the disk refuses; it can be called again.
        """
        # By a rename, so that a journal is never half there.
        gone = temporary(self.folder)
        with told(self.folder):
            if self.folder.exists():
                os.rename(self.folder, gone)
            sync_folder(self.folder.parent)
        self.close()
        shutil.rmtree(gone, ignore_errors=True)

    def clear(self) -> None:
        """Forget everything, and keep the lock; what the journal is for is forgotten last."""
        last = (RETRY_MARKER, OVERWRITE_MARKER)
        with told(self.folder):
            names = {path.name for path in self.folder.iterdir()} - {_LOCK, WORK_FOLDER}
            shutil.rmtree(self.folder / WORK_FOLDER, ignore_errors=True)
            for name in [*names.difference(last), *(name for name in last if name in names)]:
                (self.folder / name).unlink()


def is_begun(folder: Path) -> bool:
    """Whether a journal's folder holds anything of a conversion.

    One that was killed at its very start leaves a folder with a lock, and has touched nothing.
    """
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return any(
        name not in (_LOCK, WORK_FOLDER) and not name.endswith(TEMPORARY_SUFFIX) for name in names
    )
