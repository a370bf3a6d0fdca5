"""The first half of a shard's work: records are read and their texts checked, in small batches."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator

import msgspec

from ..errors import RecordError
from ..loaders.turns import check_placeholders
from .layouts import LAYOUTS, NEVA, Layout, refuse_conflict
from .readers.form import ReadRecord
from .readers.record import Record

# A batch at a time keeps this stage's code in the processor's cache: a tenth of a shard's time.
_BATCH = 64


class Checked(msgspec.Struct, frozen=True):
    """A record of a shard's plan, and what its text is like."""

    ordinal: int
    offset: int
    """Byte of the source where it begins."""
    raw: bytes
    """The record as it stands there."""
    content: bytes
    """The same in LLaVA's form."""
    record: Record | None
    """None where it could not be read."""
    insert: bool
    """Whether placeholders are to be inserted."""
    answered: int
    """Placeholders in answers, which are plain text."""
    repairs: tuple[str, ...]
    """What was changed to bring it into LLaVA's form."""
    error: RecordError | None
    """Why it is rejected."""


def images_of(found: Checked) -> tuple[str, ...]:
    """Paths of the images that a record's sample needs."""
    return found.record.images if found.record is not None and found.error is None else ()


def check_records(
    data: mmap.mmap,
    read: ReadRecord,
    rows: list[tuple[int, int, int, int]],
    *,
    may_insert: bool,
    layout: Layout = LAYOUTS[NEVA],
) -> Iterator[Checked]:
    """Read and check the records of a shard's plan, in its order.

    Args:
        data: the source.
        read: reads one of its records.
        rows: of the plan: ordinal, offset, length, blocks.
        may_insert: whether an image record without any placeholder may be repaired.
        layout: that a record must fit.
    """
    for at in range(0, len(rows), _BATCH):
        yield from _batch(data, read, rows[at : at + _BATCH], may_insert, layout)


def _batch(
    data: mmap.mmap,
    read: ReadRecord,
    rows: Iterable[tuple[int, int, int, int]],
    may_insert: bool,
    layout: Layout,
) -> list[Checked]:
    batch, check, fit = [], layout.check, layout.fit
    for ordinal, offset, length, _ in rows:
        content = raw = data[offset : offset + length]
        record = None
        try:
            row = read(raw)
            content, record, repairs = row.content, row.record, row.repairs
            found = check(record.turns)
            insert = check_placeholders(len(record.images), found, insert=may_insert)
            if fit is not None:
                repairs += fit(record, found)
                if layout.has_fields:
                    refuse_conflict(content)
            batch.append(
                Checked(
                    ordinal, offset, raw, content, record, insert, found.answered, repairs, None
                )
            )
        except RecordError as error:
            batch.append(Checked(ordinal, offset, raw, content, record, False, 0, (), error))
    return batch
