"""A dataset in an object store, for verify: a folder to which its shards come one by one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..errors import ShardError
from ..loaders.format import MANIFEST_FILE, META_DIR
from ..loaders.remote import Place, is_remote, open_place
from ..loaders.remote_copy import copy_object
from .verify_shard import ShardFacts, ShardTask, verify_shard

VerifyShard = Callable[[ShardTask], ShardFacts]


@contextmanager
def at_hand(path: str | os.PathLike[str]) -> Iterator[tuple[Path, VerifyShard]]:
    """A folder to verify, and what verifies a shard of it.

    Of an address it has copies of the small files, and of shards the names: each shard is copied,
    verified and emptied again, so that there is room for one a worker in the folder for temporary
    files ($TMPDIR).

    Raises:
        RemoteError: the service refuses or cannot be reached.
        ShardError: the disk refuses.
    """
    if not is_remote(path):
        yield Path(path), verify_shard
        return
    place = open_place(path)
    with tempfile.TemporaryDirectory(prefix="neva-prep-verify-") as scratch:
        folder = Path(scratch, place.address.name)
        (folder / META_DIR).mkdir(parents=True)
        for found in place.listed():
            if Path(found.name).parent not in (Path(), Path(META_DIR)):
                continue
            if found.name.endswith(".tar"):
                (folder / found.name).touch()
            else:
                copy_object(place / found.name, found.size, folder / found.name)
        if not (folder / MANIFEST_FILE).exists():
            raise ShardError(
                f"{place}: no {MANIFEST_FILE} here; is this the --out of a finished convert?"
            )
        yield folder, partial(_verify_copy, place)


def _verify_copy(place: Place, task: ShardTask) -> ShardFacts:
    name = task.entry.name
    # The manifest may be a stranger's.
    if Path(name).name != name:
        raise ShardError(f"{place}: {MANIFEST_FILE} names {name!r}, which is no shard's name")
    copy = task.dataset / name
    copy_object(place / name, place.size(name), copy)
    try:
        return verify_shard(task)
    finally:
        os.truncate(copy, 0)
