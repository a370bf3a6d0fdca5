"""What became of one record at every stop, and why it went no further."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import NevaPrepError, PackError
from .view import BatchView, RecordView, SampleView, TokensView

if TYPE_CHECKING:
    from ...loaders.pixel_reader import PixelReader
    from ...loaders.task_encoder import MultiModalTaskEncoder
    from .open import Looked
    from .settings import LookSettings


CHARACTERS_PER_POSITION = 64
"""Far more than tokenizers put into one on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """A record and what became of it."""

    index: int
    record: RecordView
    sample: SampleView | None = None
    tokens: TokensView | None = None
    """None without a tokenizer."""
    error: str | None = None
    """Why there is no sample."""

    @property
    def name(self) -> str:
        """Id of the record, or its key where it has none."""
        return self.record.id

    @property
    def is_broken(self) -> bool:
        """Whether training would never see it."""
        failed = self.tokens is not None and self.tokens.error is not None
        return bool(self.record.findings) or self.error is not None or failed

    @property
    def roles(self) -> tuple[str, ...]:
        """Of the conversation's turns."""
        return () if self.sample is None else tuple(turn.role for turn in self.sample.turns)


def most_characters(settings: LookSettings | None) -> int:
    """Characters of a sample beyond which no row can hold it, whatever the tokenizer."""
    known = () if settings is None else (settings.seq_length, settings.packed_sequence_size)
    return CHARACTERS_PER_POSITION * max([n for n in known if n is not None], default=4096)


def _characters(value: Any) -> int:
    """Of all texts in a value; who says them is none."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        value = [part for name, part in value.items() if name not in ("from", "role")]
    elif not isinstance(value, list | tuple):
        return 0
    return sum(map(_characters, value))


class Flow:
    """Takes records from stop to stop, as far as the settings reach; any thread may ask."""

    def __init__(
        self,
        looked: Looked,
        settings: LookSettings | None = None,
        *,
        max_characters: int | None = None,
    ) -> None:
        """Take what is looked at; nothing heavy is imported until it is needed.

        Args:
            looked: records by their number.
            settings: what training would be given; None shows images as the source has them, and
                no tokens.
            max_characters: of a sample whose tokens are made; None for no limit.
        """
        self.looked = looked
        self.settings = settings
        self._max_characters = max_characters
        self._lock = threading.RLock()

    @property
    def has_tokens(self) -> bool:
        """Whether tokens, packs and batches can be shown."""
        return self.settings is not None and self.settings.has_tokens

    def sample(self, index: int) -> SampleView:
        """The sample; where there are settings, its images also as the model gets them.

        Raises:
            NevaPrepError: the record is no valid sample.
        """
        sample = self.looked.sample(index)
        if self.settings is None:
            return sample
        from .pictures import with_tiles

        return with_tiles(sample, self._reader)

    def tokens(self, index: int) -> TokensView | None:
        """The tokens; None without a tokenizer."""
        if not self.has_tokens:
            return None
        from .tokens import view_sample_tokens

        sample = self.looked.encodable(index)
        if error := self._too_long(sample):
            key, name = str(sample.__key__), str(getattr(sample, "id", sample.__key__))
            return TokensView(key=key, id=name, template="", error=str(error), reason=error.reason)
        with self._lock:  # A fast tokenizer refuses two threads at a time.
            return view_sample_tokens(sample, self.encoder)

    def measure(self, index: int) -> tuple[int | None, int | None, str | None]:
        """Positions of a sample and its trained tokens, or why training would skip it.

        Needs a tokenizer. Sooner made than its tokens are.
        """
        from ...loaders.encoded import shift
        from ...loaders.sample import FailedSample

        config = self.encoder.preparer.rows
        try:
            sample = self.looked.encodable(index)
            if isinstance(sample, FailedSample):
                raise sample.error
            if error := self._too_long(sample):
                raise error
            with self._lock:
                prepared = self.encoder.preparer.tokens(sample)
        except NevaPrepError as error:
            return None, None, error.reason or type(error).__name__
        _, labels = shift(prepared.encoded, config)
        return prepared.length, int((labels != config.ignore_index).sum()), None

    def stops(self, index: int) -> Stops:
        """Everything there is of one record; its faults are part of what is shown."""
        record = self.looked.record(index)
        sample, error = None, None
        try:
            sample = self.sample(index)
        except NevaPrepError as fault:
            error = str(fault)
        return Stops(
            index=index, record=record, sample=sample, tokens=self.tokens(index), error=error
        )

    def batches(self, steps: range) -> Iterator[BatchView]:
        """Batches as the data module yields them, by their numbers in its stream.

        Raises:
            ConfigError: there is no tokenizer.
        """
        from .batch import view_batches
        from .settings import LookSettings, build_module

        module = build_module(self.looked, self.settings or LookSettings())
        try:
            yield from view_batches(module, self.looked, steps=steps)
        finally:
            module.close()

    def _too_long(self, sample: Any) -> PackError | None:
        """Why the tokens of a sample are not made: they would keep everybody waiting."""
        if self._max_characters is None:
            return None
        found = _characters(getattr(sample, "messages", None) or getattr(sample, "__dict__", {}))
        if found <= self._max_characters:
            return None
        return PackError(
            f"too long to show: {found:,} characters, where tokens are made of "
            f"{self._max_characters:,}; neva-prep inspect --index shows it on the terminal",
            reason="too_long",
        )

    @cached_property
    def encoder(self) -> MultiModalTaskEncoder:
        """The task encoder of the settings.

        Raises:
            ConfigError: there is no tokenizer.
        """
        from .settings import LookSettings, build_encoder

        with self._lock:
            return build_encoder(self.settings or LookSettings())

    @cached_property
    def _reader(self) -> PixelReader:
        from .settings import LookSettings, build_reader

        with self._lock:
            return build_reader(self.settings or LookSettings())
