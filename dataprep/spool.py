"""A dataset that is to lie elsewhere: written shard by shard into a local folder, and uploaded.

    source ──convert──▶ SPOOL/dataset ──shard by shard──▶ address ──▶ metadata ──▶ .info.json

The spool has the journal, and at most a few shards; it is removed when the dataset is whole.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import xxhash

from ..errors import ConfigError, NevaPrepError, ShardError
from ..loaders.format import INFO_FILE, JOURNAL_DIR, MANIFEST_FILE, ShardEntry, read_manifest
from ..loaders.remote import Place, open_place
from ..loaders.remote_cache import cache_folder
from .files import told
from .options import ConvertOptions
from .report import ConvertReport
from .upload import Uploader
from .watch import Watch
from .workplace import is_finished, is_ours

SPARE_SHARDS = 2
"""That may wait for their upload, beside one of each worker."""
_REPLACE_MARKER = "replace"
"""A file beside the dataset while the one at the address is to go, once this one is planned."""
_OURS = frozenset({"dataset", "dataset.tmp", "lock", _REPLACE_MARKER})
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def convert_elsewhere(
    out: str | os.PathLike[str],
    options: ConvertOptions,
    watch: Watch,
    convert: Callable[[Path, ConvertOptions, Watch], ConvertReport],
) -> ConvertReport:
    """Convert to an address, by way of a spool folder.

    Args:
        out: the address.
        options: as for a folder.
        watch: told of the progress.
        convert: converts to a folder, with options and a watch.

    Raises:
        ConfigError: what is there already is not to be touched.
        RemoteError: the service refuses, or cannot be reached; run again with `resume`.
        NevaPrepError: as `convert`.
    """
    place = open_place(out)
    if options.finish:
        raise ConfigError(f"--out {place}: tasks share a folder; give one, and copy what they make")
    with spool_of(place, options.spool) as folder, named(folder, place):
        if not _may_write(place, folder, options):
            # Only the manifest is here: enough to compare with, and to tell of.
            try:
                report = convert(folder, replace(options, spool=None), watch)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            report.out = str(place)
            return report
        most = options.workers + SPARE_SHARDS
        inner = replace(options, spool=None, waiting_shards=most)
        with Uploader(folder, place) as uploader:
            watching = Checking(watch, uploader, lambda: _remove_replaced(place, folder))
            report = convert(folder, inner, watching)
            uploader.finish()
        finish_upload(place, folder)
    report.out = str(place)
    return report


class Checking(Watch):
    """Passes the progress on, and ends the work where the uploads have failed."""

    def __init__(
        self, watch: Watch, uploader: Uploader, planned: Callable[[], None] = lambda: None
    ) -> None:
        """Watch; `planned` is called before the first shard is written."""
        self._watch, self._uploader, self._planned = watch, uploader, planned

    def begin(self, stage: str, records: int | None) -> None:
        """A stage begins."""
        self._uploader.check()
        if stage == "write":
            self._planned()
        self._watch.begin(stage, records)

    def update(self, records: int, written: int, rejected: int) -> None:
        """So many records are done."""
        self._uploader.check()
        self._watch.update(records, written, rejected)

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self._watch.note(text)


@contextmanager
def spool_of(place: Place, given: str | None) -> Iterator[Path]:
    """The folder of a dataset under way; it stays only where there is something to go on with.

    Args:
        place: where the dataset goes.
        given: by the user; None for one in the cache.

    Raises:
        ConfigError: the folder has other files in it.
        ShardError: another conversion is at work there, or the disk refuses.
    """
    spool = Path(given) if given is not None else _default_spool(place)
    dataset = spool / "dataset"
    if given is not None and spool.exists():
        others = sorted({path.name for path in spool.iterdir()} - _OURS)
        if others:
            raise ConfigError(
                f"--spool {spool}: holds other files ({', '.join(others[:3])}); give a new or "
                "empty folder"
            )
    with told(spool):
        spool.mkdir(parents=True, exist_ok=True)
        lock = os.open(spool / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ShardError(f"{place}: another conversion is writing here; wait for it") from error
        yield dataset
    finally:
        if not dataset.exists() or not any(dataset.iterdir()):
            shutil.rmtree(spool, ignore_errors=True)
        os.close(lock)


def _default_spool(place: Place) -> Path:
    name = _UNFIT.sub("-", str(place))[-80:].strip("-")
    return cache_folder() / "spool" / f"{name}-{xxhash.xxh3_64_hexdigest(str(place).encode())}"


@contextmanager
def named(folder: Path, place: Place) -> Iterator[None]:
    """In messages the dataset has its address: nobody looks for it in the spool."""
    try:
        yield
    except NevaPrepError as error:
        text = str(error)
        if str(folder) not in text:
            raise
        raise type(error)(text.replace(str(folder), str(place)), reason=error.reason) from error


def _may_write(place: Place, folder: Path, options: ConvertOptions) -> bool:
    """Whether shards may be written; the same rules as for a folder.

    Returns:
        False where `resume` finds a finished dataset; its manifest is then in the folder.

    Raises:
        ConfigError: there is something that the options do not allow to touch.
    """
    is_begun = folder.exists() and any(folder.iterdir())
    names = _names(place)
    if options.overwrite:
        with told(folder):
            shutil.rmtree(folder, ignore_errors=True)
            if names:
                (folder.parent / _REPLACE_MARKER).touch()
        return True
    if is_begun and is_finished(folder) and not options.resume:
        raise ConfigError(
            f"--out {place}: holds an unfinished conversion; go on with --resume, or --overwrite"
        )
    if is_begun or not names:
        # The folder's own rules decide.
        return True
    if MANIFEST_FILE not in names:
        raise ConfigError(
            f"--out {place}: holds an unfinished conversion ({min(names)}, ...), but its spool "
            f"folder is not {folder.parent}; give --spool, or --overwrite"
        )
    if not options.resume:
        raise ConfigError(
            f"--out {place}: holds a finished dataset; give another address, or --overwrite"
        )
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST_FILE).write_bytes(place.read(MANIFEST_FILE))
    return False


def _names(place: Place) -> set[str]:
    """Names of a dataset's objects; where others are, nothing of it is ours to touch."""
    names: set[str] = set()
    for name, _ in place.listed():
        if not is_ours(name.partition("/")[0]):
            raise ConfigError(
                f"--out {place}: holds other files ({name[:100]}); give a new or empty address"
            )
        names.add(name)
    return names


def _remove_replaced(place: Place, folder: Path) -> None:
    """Remove the dataset that is to be replaced, now that its successor is planned.

    What is half removed looks neither whole nor like one to go on with.
    """
    marker = folder.parent / _REPLACE_MARKER
    if not marker.exists():
        return
    names = _names(place)
    first = [name for name in (INFO_FILE, MANIFEST_FILE) if name in names]
    for name in [*first, *sorted(names.difference(first))]:
        place.delete(name)
    with told(marker):
        marker.unlink()


def finish_upload(place: Place, folder: Path) -> None:
    """Upload what surrounds the shards, the commit marker last, and remove the folder.

    Raises:
        ShardError: a shard is not there any more.
        RemoteError: the service refuses, or cannot be reached.
    """
    manifest = read_manifest(folder)
    _check_shards(place, manifest.shards)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    # While its files are replaced, a dataset that was there is not whole.
    place.delete(INFO_FILE)
    for name in sorted(files):
        if name != INFO_FILE and not name.startswith(JOURNAL_DIR):
            place.upload(folder / name, name)
    if INFO_FILE in files:
        place.upload(folder / INFO_FILE, INFO_FILE)
    with told(folder):
        shutil.rmtree(folder)


def _check_shards(place: Place, shards: list[ShardEntry]) -> None:
    """See that every shard has arrived, before anything says that the dataset is whole."""
    sizes = dict(place.listed())
    lost = [shard.name for shard in shards if sizes.get(shard.name) != shard.bytes]
    if lost:
        raise ShardError(
            f"{place}: {len(lost)} shards are not there as they were uploaded ({lost[0]}); has "
            "somebody removed them? Convert again with --overwrite"
        )
