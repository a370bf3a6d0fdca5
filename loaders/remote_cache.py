"""A dataset elsewhere, as a folder here: its metadata as files, its shards as they are read.

    CACHE/datasets/<name>-<hash>/
      remote.json       the address, and the bytes of each shard
      files/<name>/…    metadata, manifest, *.tar.idx: what energon needs beside the shards
      blocks/<shard>/…  pieces of shards that were read; the oldest are removed beyond the cap

The hash is that of address and metadata: a dataset that was made anew is another one. What checks a
dataset before it is opened checks these files, and these files are what energon then reads.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec
import xxhash

from ..errors import ConfigError, ShardError
from .format import INDEX_FILE, INFO_FILE, MANIFEST_FILE, META_DIR, QUARANTINE_FILE
from .remote import Place, open_place, parse_address
from .remote_copy import copy_object, in_parallel
from .remote_errors import MissingObjectError
from .trust import read_shard_samples

_FILES, _BLOCKS = "files", "blocks"
_REMOTE_FILE = "remote.json"
_MOST_METADATA = 64
_MOST_METADATA_BYTES = 64 << 20
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


class RemoteDataset(msgspec.Struct, frozen=True):
    """remote.json: where the shards of a cached dataset lie."""

    url: str
    sizes: dict[str, int]
    """Shard -> bytes."""


def cache_folder() -> Path:
    """Where what comes from elsewhere is kept: NEVA_PREP_CACHE, or ~/.cache/neva-prep."""
    given = os.environ.get("NEVA_PREP_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "neva-prep"


def cached_dataset(
    given: str | os.PathLike[str], *, with_index: bool = False, with_quarantine: bool = False
) -> Path:
    """A folder that stands for a dataset elsewhere; its shards are read through `open_shard`.

    Args:
        given: its address.
        with_index: also copy index.sqlite, for reading samples by number or key.
        with_quarantine: also copy quarantine.jsonl, where there is one.

    Raises:
        ShardError: there is no finished dataset, or its metadata is damaged.
        RemoteError: the service refuses, or cannot be reached.
    """
    place = open_place(given)
    if place.address.name.endswith((".yaml", ".yml", ".json", ".jsonl")):
        raise ConfigError(
            f"{place}: only the folder of a dataset can be read from there; give that, or a map "
            "from addresses to weights"
        )
    metadata = _read_metadata(place)
    folder = cache_folder() / "datasets" / _name_of(place, metadata)
    files = folder / _FILES / _plain_name(place)
    if not (folder / _REMOTE_FILE).exists():
        _make(place, metadata, folder, files.relative_to(folder))
    if with_index and not (files / INDEX_FILE).exists():
        try:
            size = place.size(INDEX_FILE)
        except MissingObjectError as error:
            raise ShardError(f"{place}: has no {INDEX_FILE}; convert or prepare again") from error
        copy_object(place / INDEX_FILE, size, files / INDEX_FILE)
    if with_quarantine and not (files / QUARANTINE_FILE).exists():
        with suppress(MissingObjectError):
            size = place.size(QUARANTINE_FILE)
            copy_object(place / QUARANTINE_FILE, size, files / QUARANTINE_FILE)
    return files


def remote_of(folder: Path) -> RemoteDataset | None:
    """Where the shards of a dataset's folder lie; None where they are in it.

    Only folders in the cache are looked at: a dataset could have a file that sends us anywhere.
    """
    return _remote_of(os.path.realpath(folder), os.path.realpath(cache_folder() / "datasets"))


@lru_cache(maxsize=256)
def _remote_of(folder: str, datasets: str) -> RemoteDataset | None:
    made = Path(folder).parent.parent
    if str(made.parent) != datasets or Path(folder).parent.name != _FILES:
        return None
    try:
        return msgspec.json.decode((made / _REMOTE_FILE).read_bytes(), type=RemoteDataset)
    except (OSError, msgspec.DecodeError) as error:
        raise ShardError(f"{made}: is damaged ({error}); remove this folder") from error


def _read_metadata(place: Place) -> dict[str, bytes]:
    """The small files of a dataset: those of its metadata folder, and the manifest."""
    names = []
    for name, size in (place / META_DIR).listed():
        plain = f"{META_DIR}/{name}"
        if plain == INDEX_FILE or "/" in name or size > _MOST_METADATA_BYTES:
            continue
        names.append(plain)
        if len(names) > _MOST_METADATA:
            raise ShardError(f"{place}: has more than {_MOST_METADATA} files in {META_DIR}")
    if INFO_FILE not in names:
        raise ShardError(
            f"{place}: has no {INFO_FILE}, which is written last: no dataset is there, or its "
            "conversion is not finished"
        )

    def read(name: str) -> bytes | None:
        try:
            return place.read(name)
        except MissingObjectError:
            return None

    names.append(MANIFEST_FILE)
    contents = zip(names, in_parallel(read, names), strict=True)
    return {name: content for name, content in contents if content is not None}


def _name_of(place: Place, metadata: Mapping[str, bytes]) -> str:
    digest = xxhash.xxh3_128(str(place).encode())
    for name, content in sorted(metadata.items()):
        digest.update(b"\0%s\0%d\0" % (name.encode(), len(content)))
        digest.update(content)
    return f"{_plain_name(place)}-{digest.hexdigest()}"


def _plain_name(place: Place) -> str:
    return _UNFIT.sub("-", place.address.name)[-60:].strip(".") or "dataset"


def _make(place: Place, metadata: Mapping[str, bytes], folder: Path, below: Path) -> None:
    """Make the folder of a dataset under a temporary name, with the files in one below."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ShardError(
            f"{folder.parent}: cannot be written: {error.strerror}; set NEVA_PREP_CACHE"
        ) from error
    try:
        files = made / below
        (files / META_DIR).mkdir(parents=True)
        for name, content in metadata.items():
            (files / name).write_bytes(content)
        # The names in it are checked: each is one of a file beside the metadata.
        shards = list(read_shard_samples(files))

        def copy_index(shard: str) -> int:
            # One that is missing is missed by energon itself.
            with suppress(MissingObjectError):
                (files / f"{shard}.idx").write_bytes(place.read(f"{shard}.idx"))
            return place.size(shard)

        sizes = dict(zip(shards, in_parallel(copy_index, shards), strict=True))
        content = msgspec.json.encode(RemoteDataset(str(place), sizes))
        (made / _REMOTE_FILE).write_bytes(content)
        # Another process may have been faster, with the same files.
        with suppress(OSError):
            os.rename(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def place_of(remote: RemoteDataset) -> Place:
    """Where its shards lie."""
    return Place(parse_address(remote.url))


def blocks_of(shard: Path) -> Path:
    """Folder of the pieces of a shard, by its path in the dataset's folder."""
    return shard.parent.parent.parent / _BLOCKS / shard.name


def all_blocks() -> Iterator[Path]:
    """Every piece of every dataset."""
    return (cache_folder() / "datasets").glob(f"*/{_BLOCKS}/*/*")
