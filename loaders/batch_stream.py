"""Streams of batches: the endless one of training, and the passes of validation."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

from megatron.energon import SavableDataset

from ..errors import ConfigError
from .batch import Batch
from .energon_loader import Batches, StartMethod, open_loader, our_errors, restore_loader
from .last_note import has_batch
from .skips import Note, SkipCounter
from .transfer import unpack


class TrainStream:
    """Endless batches of this rank, with a place that can be saved.

    An iteration that is left goes on where it was: `iter()` gives the stream itself. Its worker
    processes live until `close()`.
    """

    def __init__(
        self,
        name: str,
        dataset: SavableDataset,
        counter: SkipCounter,
        *,
        start_method: StartMethod,
        pin_memory: bool,
    ) -> None:
        """Open a stream; nothing is read before the first batch."""
        self._name = name
        self._counter = counter
        self._batches = Batches(
            open_loader(dataset, start_method=start_method, pin_memory=pin_memory)
        )
        self._close = weakref.finalize(self, self._batches.close)
        self.num_batches = 0
        """Batches given since the first start, those before a resume included."""

    @property
    def closed(self) -> bool:
        """Whether it has ended, by `close()` or an error."""
        return self._batches.closed

    def __iter__(self) -> TrainStream:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            RecordError: too many samples were skipped.
            ShardError: a shard cannot be read.
            ConfigError: the stream is closed.
        """
        if self.closed:
            raise ConfigError("this stream is closed; call train_dataloader() for another one")
        with our_errors(self._name):
            try:
                batch = _take_note(next(self._batches), self._counter)
            except BaseException:
                self.close()
                raise
        self.num_batches += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The place behind the last batch, in energon's terms; resume.py makes plain data of it.

        Raises:
            ConfigError: the stream is closed.
        """
        if self.closed:
            raise ConfigError(
                "this stream is closed, by close() or an error, and its place went with its "
                "workers; call train_dataloader(), which goes on from the last state that was "
                "saved or loaded, or else from the start"
            )
        return {
            "energon": self._batches.save_state(),
            "skips": self._counter.state_dict(),
            "num_batches": self.num_batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place; only before the first batch."""
        if self._batches.begun:
            raise ConfigError(
                "the stream has begun; load a state before its first batch, or through the data "
                "module, which opens another stream"
            )
        restore_loader(self._batches.loader, state["energon"])
        self._counter.load_state_dict(state["skips"])
        self.num_batches = state["num_batches"]

    def close(self) -> None:
        """End the worker processes; the place can no longer be saved."""
        self._close()

    def __enter__(self) -> TrainStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ValStream:
    """Batches of this rank's share of a split; every `iter()` is the same pass from its begin.

    Leaving the loop, closing the iterator or `close()` ends the worker processes.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], SavableDataset],
        new_counter: Callable[[], SkipCounter],
        num_batches: int | None,
        *,
        ignore_index: int,
        start_method: StartMethod,
        pin_memory: bool,
    ) -> None:
        """Prepare passes.

        Args:
            name: of the dataset, for messages.
            build: gives the chain of datasets for a pass.
            new_counter: gives the counter for a pass.
            num_batches: of each rank; None for as many as there are, where there is one rank.
            ignore_index: label where no loss is taken, in repeated batches.
            start_method: of worker processes.
            pin_memory: whether pixels come in pinned memory.
        """
        self._name = name
        self._build = build
        self._new_counter = new_counter
        self._num_batches = num_batches
        self._ignore_index = ignore_index
        self._start_method = start_method
        self._pin_memory = pin_memory
        self._running: list[Batches] = []
        self.counter = new_counter()
        """Of the last pass."""

    def __iter__(self) -> Iterator[Batch]:
        """A pass.

        A rank that has fewer batches than another repeats its last one without labels, so that all
        ranks make the same number of steps and no sample counts twice.

        Raises:
            RecordError: too many samples were skipped, or all.
            ShardError: a shard cannot be read.
            ConfigError: the pass was closed before its end.
        """
        self.counter = counter = self._new_counter()
        batches = Batches(
            open_loader(self._build(), start_method=self._start_method, pin_memory=self._pin_memory)
        )
        self._running.append(batches)
        given = 0
        last: Batch | None = None
        try:
            while True:
                if batches.closed:
                    raise ConfigError("this pass of validation is closed; begin another one")
                with our_errors(self._name):
                    found = next(batches, None)
                    if found is None:
                        break
                    if not has_batch(found):
                        counter.add(found[1])
                        continue
                    last = _take_note(found, counter)
                given += 1
                yield last
            counter.check_end()
        finally:
            batches.close()
            self._running.remove(batches)
        while last is not None and given < (self._num_batches or 0):
            given += 1
            yield without_labels(last, self._ignore_index)

    def close(self) -> None:
        """End the worker processes of passes that are not at their end."""
        for batches in self._running:
            batches.close()


def without_labels(batch: Batch, ignore_index: int) -> Batch:
    """The batch with nothing to learn from, and no keys: a step that keeps ranks in step."""
    blank = dict(batch)
    blank["labels"] = batch["labels"].new_full(batch["labels"].shape, ignore_index)
    blank["loss_mask"] = batch["loss_mask"].new_zeros(batch["loss_mask"].shape)
    blank["__keys__"] = []
    blank["__origins__"] = []
    return blank  # type: ignore[return-value]


def _take_note(found: Any, counter: SkipCounter) -> Batch:
    """The batch, its note added to the counts."""
    if isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[1], Note):
        counter.add(found[1])
        return unpack(found[0])
    # A task encoder that is not ours.
    counter.add(Note(delivered=1))
    return found  # type: ignore[no-any-return]
