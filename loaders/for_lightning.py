"""A data module in the form that Lightning asks for: a subclass of its own, made where it is there.

Lightning is not needed by this package, so nothing here is imported before it is called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ..errors import ConfigError
from .batch import Batch
from .batch_stream import TrainStream, ValStream
from .stream_module import StreamDataModule

_NAMES = ("lightning.pytorch", "pytorch_lightning")
"""Two packages of the same classes, which do not know each other's."""


def for_lightning(data: StreamDataModule, *, batches_per_epoch: int) -> Any:
    """The data module as a LightningDataModule, for `trainer.fit(model, datamodule=...)`.

    Its state in a checkpoint is the place behind the last batch that was trained on.

    Args:
        data: whose streams it gives.
        batches_per_epoch: after so many batches of this rank Lightning calls it an epoch; the
            stream goes on. Of a stream without a length Lightning would fetch a batch ahead, and a
            resume would leave that one out.

    Raises:
        ConfigError: Lightning is not installed, or there is no batch in an epoch.
    """
    if batches_per_epoch < 1:
        raise ConfigError(f"batches_per_epoch={batches_per_epoch}: must be 1 or more")
    made = type("NevaLightningData", (_Hooks, _lightning().LightningDataModule), {})
    return made(data, batches_per_epoch)


def _lightning() -> Any:
    """The Lightning that is imported already, else the one that is installed."""
    for name in sorted(_NAMES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise ConfigError("Lightning is not installed: pip install lightning")


class _Hooks:
    """Lightning's hooks over a data module's methods."""

    def __init__(self, data: StreamDataModule, batches_per_epoch: int) -> None:
        super().__init__()
        self.data = data
        self._length = batches_per_epoch
        self._train: TrainStream | None = None
        self._val: ValStream | None = None

    def train_dataloader(self) -> Epoch:
        self._train = self.data.train_dataloader()
        return Epoch(self._train, self._length)

    def val_dataloader(self) -> ValStream:
        self._val = self.data.val_dataloader()
        return self._val

    def state_dict(self) -> dict[str, Any]:
        """The places of all data-parallel ranks, as Lightning stores what its first rank has."""
        own = self.data.ranks()
        found = [(own.rank, self.data.state_dict())]
        distributed = sys.modules.get("torch.distributed")
        if own.size > 1 and distributed is not None and distributed.is_initialized():
            found *= distributed.get_world_size(own.group)
            distributed.all_gather_object(found, found[0], group=own.group)
        return {"ranks": dict(found)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to this rank's place.

        Raises:
            ConfigError: it is of other ranks or settings.
        """
        ranks = state_dict.get("ranks") or {0: state_dict}
        # That of another rank is refused with what differs.
        own = self.data.ranks().rank
        self.data.load_state_dict(ranks[own] if own in ranks else next(iter(ranks.values())))

    def teardown(self, stage: str | None = None) -> None:
        """End the worker processes; the place stays, for a checkpoint behind the last step."""
        place = None
        if self._train is not None and not self._train.closed:
            place = self.data.state_dict()
        self.data.close()
        if place is not None:
            self.data.load_state_dict(place)

    def on_exception(self, exception: BaseException) -> None:
        """End the worker processes; another `fit` goes on from the last state that was saved."""
        for stream in (self._train, self._val):
            if stream is not None:
                stream.close()


class Epoch:
    """So many next batches of a stream, which goes on behind them."""

    def __init__(self, stream: TrainStream, length: int) -> None:
        """Take the stream, and how many batches are an epoch."""
        self._stream = stream
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        # A generator would close the stream at its own end.
        return islice(self._stream, self._length)

    def state_dict(self) -> dict[str, Any]:
        """Nothing, as the data module's has all; without it Lightning warns of each resume."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing: the stream is opened at its place."""
