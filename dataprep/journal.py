"""The journal of an unfinished conversion: the plan, and what became of each finished shard.

It lies in OUT/.journal and is removed when the dataset is whole. A shard counts as done once its
result is here, which is written after its tar and index are durable.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from ..errors import ConfigError, ShardError
from .files import TEMPORARY_SUFFIX, sync_folder, temporary, told, write_file
from .lock import FolderLock
from .plan import Plan, ShardPlan
from .quarantine import Rejected
from .shard import ShardResult, ShardSummary
from .source import Source

RETRY_MARKER = "retry"
"""A file in a journal that a `--retry` began."""
OVERWRITE_MARKER = "overwrite"
"""A file in a journal while what was there before is being removed."""
REPLACE_MARKER = "replace"
"""A file in a journal beside a finished dataset, which goes once its successor is planned."""
ROWS_FILE = "plan.rows"
WORK_FOLDER = "work"
_PLAN_FILE = "plan.json"
_FINGERPRINT_FILE = "fingerprint.json"
_LOCK = "lock"
_TASKS_SUFFIX = "-tasks"


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """plan.json: the plan, and what it was made from."""

    inputs: dict[str, Any]
    """Fingerprint of the source, and the options that decide the output."""
    plan: Plan


_Stored = TypeVar("_Stored", bound=ShardSummary)


class _Index(msgspec.Struct):
    index: int


_decode_index = msgspec.json.Decoder(_Index).decode


class _Fingerprint(msgspec.Struct, frozen=True):
    """fingerprint.json: of a source, and how its file looked then."""

    xxh3_128: str
    stamp: list[int]


class Journal:
    """The journal folder of one conversion, locked while the object lives."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        """Open or make a journal.

        Args:
            folder: where it lies.
            shared: among tasks, each of which writes its own shards of one plan.

        Raises:
            ShardError: another conversion writes there, or the disk refuses.
        """
        self.folder = folder
        self._is_task = shared
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(folder / _LOCK)
        self.hold(shared=shared)

    def hold(self, *, shared: bool) -> None:
        """Change the hold on the journal; a task waits while another one plans.

        Raises:
            ShardError: another conversion holds it, or has come to its end meanwhile.
        """
        self._lock.hold(shared=shared, patient=lambda: self._is_task and not self.has_plan())

    def has_plan(self) -> bool:
        """Whether planning was finished, by whomever."""
        return (self.folder / _PLAN_FILE).exists()

    def fingerprint(self, source: Source) -> str:
        """A source's fingerprint; who goes on with a file that is untouched need not read it all.

        Raises:
            ShardError: the disk refuses.
        """
        status = source.path.stat()
        stamp = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
        path = self.work / _FINGERPRINT_FILE
        with suppress(OSError, msgspec.DecodeError):
            stored = msgspec.json.decode(path.read_bytes(), type=_Fingerprint)
            if stored.stamp == stamp:
                return stored.xxh3_128
        found = _Fingerprint(source.fingerprint(), stamp)
        if not self._lock.is_shared:
            write_file(path, msgspec.json.encode(found))
        return found.xxh3_128

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
        write_file(self.folder / _PLAN_FILE, content)

    def load_plan(self, inputs: dict[str, Any]) -> Plan | None:
        """The stored plan, or None where planning was not finished.

        Raises:
            ConfigError: it was made from another source or with other options.
        """
        path = self.folder / _PLAN_FILE
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
            way_out = ", then --retry once more" if self.is_retry() else ", or --overwrite"
            raise ConfigError(
                f"{self.folder.parent}: --resume needs what the conversion began with, but these "
                f"differ: {', '.join(differing)}; give the same again{way_out}"
            )
        return stored.plan

    def note_tasks(self, count: int) -> None:
        """Remember among how many tasks the shards are divided, for messages.

        Raises:
            ShardError: the disk refuses.
        """
        # The name tells it: several tasks may write it at the same time.
        with told(self.work):
            (self.work / f"{count}{_TASKS_SUFFIX}").touch()

    def task_count(self) -> int | None:
        """Among how many tasks the shards are divided; None where that is not known."""
        found = (self.folder / WORK_FOLDER).glob(f"*{_TASKS_SUFFIX}")
        counts = [path.name.removesuffix(_TASKS_SUFFIX) for path in found]
        return int(counts[0]) if len(counts) == 1 else None

    def is_retry(self) -> bool:
        """Whether a `--retry` is under way, rather than a first conversion."""
        return (self.folder / RETRY_MARKER).exists()

    def is_overwrite(self) -> bool:
        """Whether what was there before is not wholly removed yet."""
        return (self.folder / OVERWRITE_MARKER).exists()

    def is_replacing(self) -> bool:
        """Whether there is a finished dataset, all of it or a part, that is to be replaced."""
        return (self.folder / REPLACE_MARKER).exists()

    def is_done(self, shard: ShardPlan) -> bool:
        """Whether a shard was finished, now or before."""
        return (self.folder / f"{shard.name}.json").exists()

    def summary(self, shard: ShardPlan) -> ShardSummary:
        """A finished shard in figures.

        Raises:
            ShardError: the disk refuses.
        """
        path = self.folder / f"{shard.name}.json"
        with told(path, "read"):
            return msgspec.json.decode(path.read_bytes(), type=ShardSummary)

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

    def rejected(self, shards: str = "*") -> Iterator[Rejected]:
        """Every rejected record of the finished shards, in the order of the source.

        Only their places are held in memory: rejected records can be as many as records.

        Args:
            shards: `*.tar` leaves out what a retry does not even try.
        """
        index, start = array("Q"), array("Q", [0])
        # Without a name: several tasks may look at the same time.
        with told(self.folder), tempfile.TemporaryFile(dir=self.folder) as together:
            for path in sorted(self.folder.glob(f"{shards}.rejected.jsonl")):
                with path.open("rb") as file:
                    for line in file:
                        index.append(_decode_index(line).index)
                        start.append(start[-1] + len(line))
                        together.write(line)
            decode = msgspec.json.Decoder(Rejected).decode
            for place in np.argsort(np.asarray(index), kind="stable").tolist():
                together.seek(start[place])
                yield decode(together.read(start[place + 1] - start[place]))

    def close(self) -> None:
        """Unlock."""
        self._lock.close()

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
        last = (RETRY_MARKER, OVERWRITE_MARKER, REPLACE_MARKER)
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
