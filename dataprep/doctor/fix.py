"""Writing the repaired source: every byte of the old one, but for the repaired records."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ...errors import ConfigError, DiskError
from ...loaders.spans import Span
from ..files import publish, temporary
from ..plain_text import plain_text
from ..quarantine import Rejected
from ..source import Source
from ..splice import apply
from .edits import add_id
from .repair import Change, Repair
from .report import Fixed

_CHUNK_BYTES = 4 << 20
_MAX_SHOWN = 2000
"""Characters of one side of a change in the diff."""


@contextmanager
def open_fix(source: Source, out: Path, overwrite: bool) -> Iterator[FixWriter]:
    """Begin a repaired source and its diff; both appear under their names once they are whole.

    Raises:
        ConfigError: one of them may not be written.
        DiskError: the disk refuses.
    """
    diff = out.with_name(f"{out.name}.diff")
    _refuse(source.path, out, diff, overwrite)
    paths = out, diff
    try:
        with temporary(out).open("wb") as file, temporary(diff).open("wb") as notes:
            yield FixWriter(source, out, diff, file, notes)
            for written in (file, notes):
                written.flush()
                os.fsync(written.fileno())
            for path in paths:
                publish(path)
    except OSError as error:
        raise DiskError(f"{out}: cannot be written: {error.strerror}; see to the disk") from error
    finally:
        for path in paths:
            with suppress(OSError):
                temporary(path).unlink()


class FixWriter:
    """A repaired source being written, record by record in the order of the source."""

    def __init__(
        self, source: Source, out: Path, diff: Path, file: BinaryIO, notes: BinaryIO
    ) -> None:
        self._source = source
        self._read = source.reader()
        self._file = file
        self._notes = notes
        self._fixed = Fixed(out=os.fspath(out), diff=os.fspath(diff))
        self._edits: Counter[str] = Counter()
        # A byte order mark is not copied.
        self._at = 3 if source.has_byte_order_mark else 0
        if self._at:
            change = Change("byte_order_mark_removed", "begin of the file", "\ufeff", "")
            self._note("the file", [change])

    def record(
        self, index: int, span: Span, raw: bytes, rejected: Rejected | None, repair: Repair | None
    ) -> None:
        """Take in one record, where something may be changed in it."""
        changes: list[Change] = []
        if repair is not None:
            if not repair.is_whole:
                self._fixed.left += 1
                return
            raw, changes = repair.raw, list(repair.changes)
            self._fixed.repaired += 1
        identity = self._read(raw).record.id
        if identity is None:
            edit = add_id(raw, index)
            changes.append(Change(edit.kind, edit.where, "", edit.new))
            raw = apply(raw.decode(), [edit]).encode()
        if not changes:
            return
        self._copy(span.offset)
        self._file.write(raw)
        self._at = span.offset + span.length
        named = "" if identity is None else f" (id {identity!r})"
        line = f", line {rejected.line:,}" if rejected and rejected.line else ""
        self._note(f"record {index}{named}{line}, byte {span.offset:,}", changes)

    def finish(self) -> Fixed:
        """Copy the rest; the files get their names when the context ends."""
        self._copy(len(self._source.data))
        self._fixed.edits = dict(self._edits.most_common())
        return self._fixed

    def _copy(self, stop: int) -> None:
        for at in range(self._at, stop, _CHUNK_BYTES):
            self._file.write(self._source.data[at : min(at + _CHUNK_BYTES, stop)])
        self._at = stop

    def _note(self, what: str, changes: list[Change]) -> None:
        self._edits.update(change.kind for change in changes)
        lines = [f"--- {self._source.name}: {what}", f"+++ {Path(self._fixed.out).name}"]
        for kind, where, old, new in changes:
            lines.append(f"@@ {where}: {kind} @@")
            lines += [f"{sign}{_shown(text)}" for sign, text in (("-", old), ("+", new)) if text]
        # A diff is read on a terminal: what steers one is spelled out.
        text = "\n".join(
            line if line.isascii() and line.isprintable() else _one_line(line) for line in lines
        )
        self._notes.write(f"{text}\n".encode())


def _one_line(text: str) -> str:
    return plain_text(text).replace("\n", "\\n")


def _shown(text: str) -> str:
    rest = len(text) - _MAX_SHOWN
    return text if rest <= 0 else f"{text[:_MAX_SHOWN]}... and {rest:,} more characters"


def _refuse(source: Path, out: Path, diff: Path, overwrite: bool) -> None:
    for path in (out, diff):
        if path.exists() and path.samefile(source):
            raise ConfigError(f"--fix {path}: is the source itself; give another file")
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigError(f"--fix {path}: give a file in a folder that exists")
        if path.exists() and not overwrite:
            raise ConfigError(f"--fix {path}: exists; give another file, or --overwrite")
