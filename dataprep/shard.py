"""Writing one shard: each record of a slice of the plan is read, checked, and kept or rejected.

A shard is a task of its own: it needs the source, the images and the plan, and no other shard.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from ..errors import ImageError, RecordError
from ..loaders.format import ImageEntry, sample_key
from ..loaders.image_header import SAME_EXTENSION, Header, decode_fully, read_header
from .checked import Checked, check_records, images_of
from .files import write_file
from .layouts import add_fields, layout_of
from .member_json import member_json
from .options import ConvertOptions
from .plan import ShardPlan
from .quarantine import Rejected, reject
from .readers.record import Record
from .reencode import shrink, shrinking_of
from .source import Source
from .stores.ahead import read_ahead
from .stores.store import ImageStore
from .tar import BLOCK_BYTES
from .tar_writer import Part, TarWriter

_PROGRESS_EVERY = 16


class ShardSummary(msgspec.Struct, kw_only=True):
    """What became of one shard, in figures."""

    name: str
    split: str
    records: int
    samples: int
    images: int
    image_bytes: int = 0
    turns: int = 0
    bytes: int
    """Of the tar; 0 where every record was rejected and no tar was written."""
    xxh3_128: str
    repairs: dict[str, int] = {}
    warnings: dict[str, int] = {}
    rejected: int = 0
    """Records; their rows are in the journal's file `<name>.rejected.jsonl`."""
    changed_images: int = 0
    """That were made smaller."""
    saved_bytes: int = 0
    """By that."""


class ShardResult(ShardSummary, kw_only=True):
    """The same with its index; stored in the journal once the shard is durable."""

    keys: list[str]
    starts: list[int]
    """Offset of each sample, and the end of the last."""
    parts: list[Part]


class ShardMaker:
    """Writes shards of one conversion, one after the other."""

    def __init__(
        self,
        source: Source,
        source_name: str,
        images: ImageStore,
        options: ConvertOptions,
        out: Path,
    ) -> None:
        self.source = source
        self.source_name = source_name
        self.images = images
        self.read = source.reader()
        self.options = options
        self.layout = layout_of(options.layout)
        self.shrinking = shrinking_of(options)
        self._saved: dict[int, int] = {}
        """Numbers of the open sample's images that were made smaller, and bytes saved by that."""
        self.out = out

    def make(
        self, plan: ShardPlan, rows: np.ndarray, progress: Callable[[int, int, int], None]
    ) -> tuple[ShardResult, list[Rejected]]:
        """Write one shard and its index, durably; in a dry run only check.

        Args:
            plan: what the shard is.
            rows: its part of the plan, `ROW[records]`.
            progress: called after each record with bytes, records and rejections so far; what it
                raises ends the work, and leaves nothing of the shard.
        """
        expected = int(rows["blocks"].sum(dtype=np.uint64))
        path = None if self.options.dry_run else self.out / plan.name
        tar = TarWriter(path, expected * BLOCK_BYTES)
        try:
            result, rejected = self._fill(tar, plan, rows.tolist(), progress)
            if result.samples and tar.path is not None:
                # The index first: a tar without one would look finished and not be.
                content = struct.pack(f"<{len(result.starts)}Q", *result.starts)
                write_file(tar.path.with_name(f"{plan.name}.idx"), content)
                result.bytes, result.xxh3_128 = tar.finish()
            if not self.options.sample_index:
                result.keys, result.starts, result.parts = [], [], []
            return result, rejected
        finally:
            tar.abandon()

    def _fill(
        self,
        tar: TarWriter,
        plan: ShardPlan,
        rows: list[tuple[int, int, int, int]],
        progress: Callable[[int, int, int], None],
    ) -> tuple[ShardResult, list[Rejected]]:
        may_insert = self.options.placeholder == "insert"
        keys: list[str] = []
        rejected: list[Rejected] = []
        turns = images = inserted = added_ids = renamed = in_answers = changed = saved = 0
        repairs: Counter[str] = Counter()
        checked = check_records(
            self.source.data, self.read, rows, may_insert=may_insert, layout=self.layout
        )
        for done, found in enumerate(read_ahead(checked, images_of, self.images)):
            if done % _PROGRESS_EVERY == 0:
                progress(tar.offset, done, len(rejected))
            key = sample_key(found.ordinal)
            try:
                record, entries = self._add_sample(tar, key, found)
            except (RecordError, ImageError) as error:
                tar.drop_sample()
                place = found.ordinal, found.offset, found.raw, found.record
                rejected.append(reject(self.source_name, *place, error))
                if self.options.on_error == "fail":
                    raise RecordError(rejected[-1].message, reason=error.reason) from error
                continue
            tar.keep_sample()
            keys.append(key)
            turns += len(record.turns)
            images += len(entries)
            inserted += found.insert
            added_ids += record.id is None
            renamed += sum(map(_is_renamed, entries))
            in_answers += found.answered > 0
            if found.repairs:
                repairs.update(found.repairs)
            if self._saved:
                changed, saved = changed + len(self._saved), saved + sum(self._saved.values())
                # The name that a changed image got is no correction of its file's.
                renamed -= sum(_is_renamed(entries[number]) for number in self._saved)
        progress(tar.offset, len(rows), len(rejected))
        result = ShardResult(
            name=plan.name,
            split=plan.split,
            records=len(rows),
            samples=len(keys),
            images=images,
            image_bytes=sum(size for _, name, _, size in tar.parts if name != "json"),
            turns=turns,
            bytes=0,
            xxh3_128="",
            keys=keys,
            starts=[*tar.starts, tar.offset],
            parts=tar.parts,
            repairs=_counted(
                placeholder_inserted=inserted,
                id_added=added_ids,
                extension_corrected=renamed,
                **repairs,
            ),
            warnings=_counted(placeholder_in_answer=in_answers),
            rejected=len(rejected),
            changed_images=changed,
            saved_bytes=saved,
        )
        return result, rejected

    def _add_sample(
        self, tar: TarWriter, key: str, found: Checked
    ) -> tuple[Record, list[ImageEntry]]:
        if found.error is not None:
            raise found.error
        record = found.record
        assert record is not None
        self._saved.clear()
        entries = [
            self._add_image(tar, key, number, path) for number, path in enumerate(record.images)
        ]
        content = member_json(found.content, record, key, entries, insert=found.insert)
        if self.layout.has_fields:
            content = add_fields(content, record, insert=found.insert)
        tar.add_bytes("json", key, content)
        return record, entries

    def _add_image(self, tar: TarWriter, key: str, number: int, path: str) -> ImageEntry:
        content = self.images.read_into(path, tar.room)
        header = look_at(content, path, self.options)
        size = len(content)
        if self.shrinking is not None:
            try:
                smaller = shrink(content, header, self.shrinking)
            except ImageError as error:
                raise _named(path, error) from error
            if smaller is not None:
                header, size = smaller.header, len(smaller.content)
                self._saved[number] = len(content) - size
                tar.room(size)[:] = smaller.content
        name = f"{str(number).zfill(3)}.{header.extension}"
        tar.add_content(name, key, size)
        return ImageEntry(name=name, source=str(path), width=header.width, height=header.height)


def look_at(content: memoryview, path: str, options: ConvertOptions) -> Header:
    """Look at an image as closely as the options say.

    Raises:
        ImageError: with a reason of reasons.REJECTIONS; the message has the path.
    """
    try:
        header = read_header(content, pixel_limit=options.pixel_limit)
        if options.check == "decode":
            decode_fully(content)
    except ImageError as error:
        if options.check == "none" and error.reason != "empty_image":
            given = path.rpartition(".")[2].lower()
            return Header(given if given.isalnum() and given.isascii() else "bin", 0, 0)
        raise _named(path, error) from error
    return header


def _named(path: str, error: ImageError) -> ImageError:
    """The same with the image's path before what is wrong with it."""
    return ImageError(f"image {path!r} {error}", reason=error.reason)


def _counted(**counts: int) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _is_renamed(entry: ImageEntry) -> bool:
    """Whether a file's name claimed another format than its bytes have."""
    path, extension = entry.source, entry.name[4:]
    # An image inside a table may have no name at all: its path ends in "/".
    if path.endswith((extension, "/")):
        return False
    given = path.rpartition(".")[2].lower()
    return SAME_EXTENSION.get(given, given) != extension
