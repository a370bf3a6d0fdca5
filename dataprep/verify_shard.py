"""One shard re-read: every header, member and record, held against the index and the manifest."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from ..errors import ImageError, NevaPrepError, RecordError, ShardError
from ..loaders.decode import check_image
from ..loaders.format import ShardEntry
from ..loaders.image_header import read_header
from ..loaders.members import JSON_MEMBER, SampleRecord, read_record
from ..loaders.shard import open_index
from .tar_reader import BrokenTarError, Member, TarReader

COPY_AGAIN = "copy the shard from where it was made, or convert again"
REINDEX = "convert again, or copy the index from where it was made"
_ANY_SIZE = 1 << 62
_MAX_ROWS_SHOWN = 5
"""Differing index rows that a shard reports one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is off."""

    file: str
    """Relative to the dataset."""
    key: str = ""
    """Of the sample, where one is concerned."""
    offset: int | None = None
    """Byte of the file, where one is known."""
    what: str
    fix: str

    @property
    def place(self) -> str:
        """File, sample and byte, as far as they are known."""
        parts = [self.file]
        if self.key:
            parts.append(f"sample {self.key}")
        if self.offset is not None:
            parts.append(f"byte {self.offset:,}")
        return ", ".join(parts)

    def __str__(self) -> str:
        """Place, finding, way out."""
        return f"{self.place}: {self.what}; {self.fix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """What a process needs to know to verify a shard."""

    dataset: Path
    number: int
    """Of the shard in the index."""
    entry: ShardEntry
    """What the manifest says of it."""
    has_index: bool
    """Whether index.sqlite can be opened at all; if not, that is reported once, elsewhere."""
    max_findings: int
    """How many to keep; all are counted."""


@dataclass(slots=True, kw_only=True)
class ShardFacts:
    """What a shard really holds."""

    name: str
    samples: int = 0
    images: int = 0
    image_bytes: int = 0
    turns: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    found: int = 0
    """Findings in all."""


class _ShardChecker:
    """Gathers what one shard holds and what is off with it."""

    def __init__(self, task: ShardTask) -> None:
        self.task = task
        self.facts = ShardFacts(name=task.entry.name)
        self.path = task.dataset / task.entry.name
        self.sample_rows: list[tuple[str, int, int, int]] = []
        self.part_rows: list[tuple[int, str, int, int]] = []
        self.end = 0

    def note(
        self, what: str, fix: str = COPY_AGAIN, *, key: str = "", offset: int | None = None
    ) -> None:
        self._add(Finding(file=self.facts.name, key=key, offset=offset, what=what, fix=fix))

    def _add(self, finding: Finding) -> None:
        self.facts.found += 1
        if len(self.facts.findings) < self.task.max_findings:
            self.facts.findings.append(finding)

    def read_tar(self) -> None:
        """Walk the tar, check every sample, compare size and hash with the manifest."""
        entry = self.task.entry
        with self.path.open("rb") as file:
            reader = TarReader(file)
            whole = True
            sample: list[Member] = []
            try:
                for member in reader.members():
                    if sample and member.key != sample[0].key:
                        self._end_sample(sample)
                        sample = []
                    sample.append(member)
                    self.end = member.end
            except BrokenTarError as error:
                whole = False
                self.note(f"{error}; what follows was not checked", offset=error.offset)
            if sample:
                self._end_sample(sample)
            digest, closed = reader.finish()
        self.facts.bytes = reader.size
        if whole and not closed:
            self.note("the zero blocks that close a tar are missing or damaged", offset=self.end)
        if reader.size != entry.bytes:
            self.note(f"has {reader.size:,} bytes, the manifest says {entry.bytes:,}")
        elif digest != entry.xxh3_128:
            self.note(f"its bytes have changed: xxh3_128 is {digest}, was {entry.xxh3_128}")
            self._find_damaged_images()

    def _end_sample(self, members: list[Member]) -> None:
        key, number = members[0].key, self.facts.samples
        self.facts.samples += 1
        self.sample_rows.append((key, number, members[0].start, members[-1].end - members[0].start))
        self.part_rows += [
            (number, member.name, member.offset, len(member.data)) for member in members
        ]
        images = [member for member in members if member.name != JSON_MEMBER]
        self.facts.images += len(images)
        self.facts.image_bytes += sum(len(image.data) for image in images)
        if len(images) != len(members) - 1 or members[-1].name != JSON_MEMBER:
            self.note("does not end with exactly one .json", key=key, offset=members[0].start)
            return
        try:
            record = read_record(key, members[-1].data, [image.name for image in images])
        except RecordError as error:
            what, _ = split_message(error, f"sample {key}: ")
            self.note(what, key=key, offset=members[-1].start)
            return
        self.facts.turns += len(record.messages)
        self._check_images(key, images, record)

    def _check_images(self, key: str, images: list[Member], record: SampleRecord) -> None:
        if [image.name for image in images] != [entry.name for entry in record.images]:
            self.note("its images are not in the order of 'images'", key=key)
            return
        for image, entry in zip(images, record.images, strict=True):
            if (entry.width, entry.height) == (0, 0):
                continue  # Converted without looking at images.
            try:
                # As closely as convert looks; more of it would find fault with what convert wrote.
                header = read_header(image.data, pixel_limit=_ANY_SIZE)
            except ImageError as error:
                self.note(f"{image.name} {error}", key=key, offset=image.start)
                continue
            if (header.width, header.height) != (entry.width, entry.height):
                self.note(
                    f"{image.name} is {header.width} x {header.height} pixels, its record says "
                    f"{entry.width} x {entry.height}",
                    key=key,
                    offset=image.start,
                )

    def _find_damaged_images(self) -> None:
        """Narrow changed bytes down, as far as images show that they are damaged."""
        known = {(finding.key, finding.offset) for finding in self.facts.findings}
        with self.path.open("rb") as file, suppress(BrokenTarError):  # The first walk told of it.
            for member in TarReader(file).members():
                if member.name == JSON_MEMBER or (member.key, member.start) in known:
                    continue
                try:
                    check_image(member.data, name=member.name)
                except ImageError as error:
                    what, _ = split_message(error)
                    self.note(what, key=member.key, offset=member.start)

    def compare_idx(self) -> None:
        """Hold the .tar.idx against where samples begin."""
        name = f"{self.facts.name}.idx"
        expected = [start for _, _, start, _ in self.sample_rows] + [self.end]
        try:
            content = Path(f"{self.path}.idx").read_bytes()
        except OSError as error:
            self._note_idx(name, None, f"cannot be read ({error.strerror})")
            return
        if len(content) % 8:
            self._note_idx(name, None, f"has {len(content)} bytes, no multiple of 8")
            return
        found = struct.unpack(f"<{len(content) // 8}Q", content)
        for place, (is_there, should) in enumerate(zip_longest(found, expected)):
            if is_there != should:
                self._note_idx(
                    name,
                    8 * place,
                    f"entry {place} is {is_there}, but the tar says {should}"
                    + (
                        f" ({len(found)} entries for {len(expected)})"
                        if None in (is_there, should)
                        else ""
                    ),
                )
                return

    def _note_idx(self, name: str, offset: int | None, what: str) -> None:
        self._add(Finding(file=name, offset=offset, what=what, fix=REINDEX))

    def compare_index(self) -> None:
        """Hold the shard's rows in index.sqlite against the tar."""
        try:
            with closing(open_index(self.task.dataset)) as database:
                samples = database.execute(
                    "SELECT sample_key, sample_index, byte_offset, byte_size FROM samples"
                    " WHERE tar_file_id=? ORDER BY sample_index, byte_offset",
                    (self.task.number,),
                ).fetchall()
                parts = database.execute(
                    "SELECT sample_index, part_name, content_byte_offset, content_byte_size"
                    " FROM sample_parts WHERE tar_file_id=?"
                    " ORDER BY sample_index, content_byte_offset",
                    (self.task.number,),
                ).fetchall()
        except (sqlite3.Error, ShardError) as error:
            self.note(f"its rows in index.sqlite cannot be read ({error})", REINDEX)
            return
        self._compare_rows("samples", samples, self.sample_rows)
        self._compare_rows("sample_parts", parts, self.part_rows)

    def _compare_rows(
        self,
        table: str,
        found: Sequence[tuple[object, ...]],
        expected: Sequence[tuple[object, ...]],
    ) -> None:
        if found == expected:
            return
        differing = [
            (is_there, should)
            for is_there, should in zip_longest(found, expected)
            if is_there != should
        ]
        for is_there, should in differing[:_MAX_ROWS_SHOWN]:
            number = next(value for value in (should or is_there or ()) if isinstance(value, int))
            key = self.sample_rows[number][0] if number < len(self.sample_rows) else ""
            self.note(
                f"table {table} of index.sqlite has {is_there}, but the tar says {should}",
                REINDEX,
                key=key,
            )
        if len(differing) > _MAX_ROWS_SHOWN:
            rest = len(differing) - _MAX_ROWS_SHOWN
            self.note(f"table {table} of index.sqlite differs in {rest} more rows", REINDEX)

    def compare_manifest(self) -> None:
        """Hold the manifest's counts against the tar."""
        for name in ("samples", "images"):
            is_there, should = getattr(self.facts, name), getattr(self.task.entry, name)
            if is_there != should:
                self.note(f"has {is_there} {name}, the manifest says {should}")


def split_message(error: NevaPrepError, place: str = "") -> tuple[str, str]:
    """The finding and the way out of an error's message, without the place it begins with."""
    what, _, fix = str(error).removeprefix(place).rpartition("; ")
    return what, fix


def verify_shard(task: ShardTask) -> ShardFacts:
    """Re-read a shard.

    Returns:
        What it holds, and everything that is off.
    """
    checker = _ShardChecker(task)
    try:
        checker.read_tar()
    except OSError as error:
        checker.note(f"cannot be read ({error.strerror})")
        return checker.facts
    checker.compare_idx()
    if task.has_index:
        checker.compare_index()
    checker.compare_manifest()
    return checker.facts
