"""Finished shards are uploaded by a process of their own, while the next ones are written."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import NevaPrepError, ShardError
from ..loaders.format import JOURNAL_DIR
from ..loaders.remote import Place
from .files import told
from .processes import begin_worker, interrupts_held, start_context

_LOOK_SECONDS = 0.1
_END_SECONDS = 30.0


class Uploader:
    """Uploads each finished shard of a folder, and removes it there.

    A shard is finished once the journal has its result: until then it may be written anew.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        """Take a dataset's folder, and where its shards go."""
        self._folder, self._place = folder, place

    def __enter__(self) -> Self:
        context = start_context()
        self._connection, theirs = context.Pipe()
        # Before there are threads that a fork would cut off.
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_upload_shards, args=(self._folder, self._place, theirs, os.getpid())
        )
        with interrupts_held():
            self._process.start()
        theirs.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.is_alive():
            # So that it takes back what it has half uploaded.
            self._process.terminate()
            self._process.join(_END_SECONDS)
            self._process.kill()
        self._process.join()
        self._connection.close()

    def check(self) -> None:
        """Tell what went wrong, if anything did.

        Raises:
            RemoteError: a shard could not be uploaded.
            ShardError: the process died.
        """
        try:
            if self._connection.poll():
                raise self._connection.recv()
        except EOFError as error:
            raise self._died() from error
        if not self._process.is_alive():
            raise self._died()

    def finish(self) -> None:
        """Wait until every shard is uploaded; no further one will be written.

        Raises:
            RemoteError, ShardError: as `check`.
        """
        try:
            self._connection.send(None)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if answer is not None:
            raise answer
        self._process.join()

    def _died(self) -> ShardError:
        return ShardError(
            f"{self._place}: the process that uploads died, perhaps for want of memory; go on with "
            "--resume"
        )


def _upload_shards(folder: Path, place: Place, connection: Connection, parent: int) -> None:
    begin_worker(parent)
    signal.signal(signal.SIGTERM, _leave)
    try:
        is_last = False
        while not is_last:
            # Asked first: what is there by then is all there will be.
            is_last = connection.poll(_LOOK_SECONDS)
            for tar in sorted(folder.glob("*.tar")):
                if is_last or (folder / JOURNAL_DIR / f"{tar.name}.json").exists():
                    _upload_shard(tar, place)
        connection.send(None)
    except NevaPrepError as error:
        connection.send(error)


def _upload_shard(tar: Path, place: Place) -> None:
    index = tar.with_name(f"{tar.name}.idx")
    # One that was uploaded just before a conversion was killed may have lost its index already.
    if index.exists():
        place.upload(index, index.name)
    place.upload(tar, tar.name)
    with told(tar):
        index.unlink(missing_ok=True)
        tar.unlink()


def _leave(number: int, frame: object) -> None:
    raise SystemExit(1)


def wait_for_room(folder: Path, most: int, tick: Callable[[], None]) -> None:
    """Before a shard is written: wait while too many wait for their upload.

    Args:
        folder: where they are written.
        most: shards that may wait.
        tick: called now and then; what it raises ends the waiting.
    """
    while sum(1 for _ in folder.glob("*.tar")) >= most:
        tick()
        time.sleep(_LOOK_SECONDS)
