"""A source before it is converted: records by their number, however large the file."""

from __future__ import annotations

import tempfile
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import ConfigError, ImageError, NevaPrepError, RecordError
from ...loaders.format import sample_key
from ...loaders.loose_record import load_json
from ..readers.open import open_any
from ..readers.record import Record
from ..readers.record_forms import CONVERSATIONS
from ..source import Source
from ..stores.open import HELD, open_images, place_of_images
from ..stores.store import ImageStore, read_image
from .record import check_record, id_of, view_record, way_out
from .sample import turns_of, view_image
from .view import Place, RecordView, SampleView

_STEP = 4 << 20
_DIGITS = 18
"""Of a key; Python itself refuses to read some thousand."""
_FIRST = 20
"""Records of which the images are looked for where nobody says where they are."""


class Records:
    """Bytes of the records of a file, found as far as they are asked for; 12 bytes each."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._spans = self.source.spans()
        self._offsets = array("Q")
        self._lengths = array("I")
        self._lock = threading.Lock()
        self._lines = [(0, 1)]

    def __len__(self) -> int:
        self._read_to(None)
        return len(self._offsets)

    def __getitem__(self, index: int) -> bytes:
        offset, length = self.span(index)
        return self.source.data[offset : offset + length]

    def span(self, index: int) -> tuple[int, int]:
        """Byte and length of a record.

        Raises:
            ConfigError: there is no such record.
            RecordError: the file is broken before it.
        """
        if index >= 0:
            self._read_to(index)
        if not 0 <= index < len(self._offsets):
            raise ConfigError(f"{self.source.path}: {self._why_not(index)}")
        return self._offsets[index], self._lengths[index]

    def line(self, index: int) -> int:
        """Line of the file, from 1, on which a record begins."""
        offset = self.span(index)[0]
        with self._lock:
            at = bisect_right(self._lines, (offset, 1 << 62)) - 1
            start, line = self._lines[at]
            for place in range(start, offset, _STEP):
                line += self.source.data[place : min(place + _STEP, offset)].count(b"\n")
            if offset - start > _STEP:
                self._lines.insert(at + 1, (offset, line))
            return line

    def _why_not(self, index: int) -> str:
        if index < 0:
            return f"has no record {index}; they are counted from 0"
        if not self._offsets:
            return "holds no record; there is nothing to look at"
        return f"has no record {index}; it has {len(self._offsets)}, 0 to {len(self._offsets) - 1}"

    def _read_to(self, index: int | None) -> None:
        with self._lock:
            while index is None or len(self._offsets) <= index:
                span = next(self._spans, None)
                if span is None:
                    return
                self._offsets.append(span.offset)
                self._lengths.append(span.length)


class LookedSource:
    """The records of a source, checked as a conversion would check them."""

    kind = "source"
    split: str | None = None

    def __init__(self, path: Path, *, images: Path | None = None) -> None:
        """Map the file; see `open_looked`."""
        self.path = path
        self.images = images
        # What is mapped stays so when the folder goes.
        with tempfile.TemporaryDirectory(prefix="neva-prep-") as work:
            source, lying = open_any(path, Path(work))
            place = place_of_images(lying, images)
            is_wanted = images is not None or bool(source.container)
            self.store: ImageStore | None = open_images(place, Path(work)) if is_wanted else None
        self._is_made = bool(source.container)
        self._records = Records(replace(source, path=path))
        self._read = source.reader()
        if images is None and self.store is not None and not lying.startswith(HELD):
            self._keep_folder(Path(lying))

    @property
    def splits(self) -> dict[str, int]:
        """A source has none."""
        return {}

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> RecordView:
        """A record and what a conversion would reject it for."""
        raw = self._records[index]
        place = self._place(index, line=self._records.line(index))
        error: NevaPrepError | None = None
        try:
            check_record(raw, self.store, self._read)
        except (RecordError, ImageError) as found:
            error = found
        fix = way_out(error) if error else ""
        return view_record(raw, place, key=sample_key(index), error=error, fix=fix)

    def sample(self, index: int) -> SampleView:
        """The conversation and its images, as a conversion would keep them."""
        record, images = self._checked(index)
        found: list[Any] = list(images) or [None] * len(record.images)
        value = self._value(index)
        return SampleView(
            place=self._place(index),
            id=sample_key(index) if record.id is None else str(record.id),
            key=sample_key(index),
            turns=turns_of(value["conversations"]),
            images=tuple(
                view_image(data, name=str(path), source=str(path))
                for path, data in zip(record.images, found, strict=True)
            ),
            fields={k: v for k, v in value.items() if k not in _SHOWN_OF_SOURCE},
        )

    def messages(self, index: int) -> list[dict[str, Any]]:
        """The messages of a record, under any of the usual names, checked or not."""
        where = f"{self.path.name}: record {index}"
        with suppress(RecordError):
            return list(self._value(index)["conversations"])
        try:
            value = load_json(self._records[index])
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{where}: is no JSON ({error}); repair the record") from error
        for name in CONVERSATIONS:
            if isinstance(value, dict) and isinstance(value.get(name), list):
                return list(value[name])
        raise RecordError(f"{where}: the record has no 'conversations' or 'messages' list")

    def encodable(self, index: int) -> Any:
        """The sample that a conversion would make; images are empty where no folder is known."""
        from ...loaders.sample import ConversationSample, FailedSample

        keys = {"__key__": sample_key(index), "__restore_key__": (), "__subflavors__": {}}
        try:
            record, images = self._checked(index)
        except NevaPrepError as error:
            return FailedSample(**keys, error=error)
        value = self._value(index)
        return ConversationSample(
            **keys,
            id=sample_key(index) if record.id is None else str(record.id),
            messages=value["conversations"],
            images=images or [b""] * len(record.images),
            record=value,
        )

    def find(self, *, key: str | None = None, id: str | None = None) -> int:
        """Number of a record; its key is that number."""
        if key is not None:
            if not key.isdecimal() or len(key) > _DIGITS:
                raise ConfigError(
                    f"{self.path}: has no record with key {key[:100]!r}; keys are numbers of "
                    f"up to {_DIGITS} digits"
                )
            self._records.span(int(key))
            return int(key)
        for index in range(len(self)):
            if id_of(self._records[index]) == id:
                return index
        raise ConfigError(f"{self.path}: has no record with id {id!r}; look at the source's ids")

    def quarantined(self) -> Iterator[RecordView]:
        """Records that a conversion would reject, in their order; reads through the file."""
        found = (self.record(index) for index in range(len(self)))
        return (view for view in found if view.findings)

    def _keep_folder(self, lying: Path) -> None:
        """Look for images where convert would, unless the first ones are not there."""
        assert self.store is not None
        for index in range(_FIRST):
            try:
                paths = self._read(self._records[index]).record.images
                if paths and read_image(self.store, paths[0]):
                    self.images = lying
                    return
            except ConfigError:
                break
            except (RecordError, ImageError):
                continue
        self.store = None

    def _checked(self, index: int) -> tuple[Record, list[bytes]]:
        try:
            return check_record(self._records[index], self.store, self._read)
        except (RecordError, ImageError) as error:
            where = f"{self.path.name}: record {index}"
            raise type(error)(f"{where}: {error}; {way_out(error)}", reason=error.reason) from error

    def _value(self, index: int) -> dict[str, Any]:
        """A record in LLaVA's form, parsed."""
        value: dict[str, Any] = load_json(self._read(self._records[index]).content)
        return value

    def _place(self, index: int, *, line: int | None = None) -> Place:
        if self._is_made:
            # Bytes and lines are those of what was made of it to read it.
            return Place(dataset=self.path.name, index=index)
        offset, length = self._records.span(index)
        return Place(
            dataset=self.path.name, index=index, line=line, offset=offset, num_bytes=length
        )


_SHOWN_OF_SOURCE = frozenset(("id", "conversations", "image", "images"))
