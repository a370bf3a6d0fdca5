"""The output folder before a conversion: what may be written, continued or removed."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ConfigError, NevaPrepError
from ..loaders.format import (
    DUPLICATES_FILE,
    INFO_FILE,
    JOURNAL_DIR,
    MANIFEST_FILE,
    META_DIR,
    QUARANTINE_FILE,
)
from ..loaders.remote import is_remote
from .files import TEMPORARY_SUFFIX, told, write_file
from .journal import OVERWRITE_MARKER, REPLACE_MARKER, RETRY_MARKER, Journal, is_begun
from .options import ConvertOptions

_SHARD = re.compile(r"[A-Za-z][A-Za-z0-9_]*-\d{6,}\.tar(\.idx)?")


@contextmanager
def workplace(out: Path, options: ConvertOptions) -> Iterator[Journal | None]:
    """The locked journal of a conversion; None where `resume` finds it finished.

    Raises:
        ConfigError: the folder holds something that the options do not allow to touch.
        ShardError: another conversion is at work there, or the disk refuses.
    """
    if options.dry_run:
        with tempfile.TemporaryDirectory(prefix="neva-prep-") as folder:
            yield Journal(Path(folder))
        return
    refuse_foreign(out, options)
    is_new = not out.exists()
    make_folder(out)
    shutil.rmtree(out / f"{JOURNAL_DIR}{TEMPORARY_SUFFIX}", ignore_errors=True)
    if options.resume and is_finished(out):
        if (out / JOURNAL_DIR).exists():
            # Of an --overwrite or --retry that was killed before it had touched anything.
            Journal(out / JOURNAL_DIR).remove()
        yield None
        return
    journal = Journal(out / JOURNAL_DIR)
    try:
        # One that was killed while it removed the old dataset goes on with that first.
        if journal.is_overwrite() or (options.overwrite and not stays_for_now(out)):
            _empty(out, journal)
        elif options.overwrite:
            journal.clear()
            write_file(journal.folder / REPLACE_MARKER, b"")
        yield journal
    except BaseException as error:
        # A source that cannot be planned leaves nothing that --resume could go on with.
        is_unplanned = journal.is_replacing() and not journal.has_plan()
        if is_unplanned or (isinstance(error, NevaPrepError) and not is_begun(journal.folder)):
            journal.remove()
            if is_new:
                with suppress(OSError):
                    out.rmdir()
        raise
    finally:
        journal.close()


def stays_for_now(out: Path) -> bool:
    """Whether a whole dataset is there, which `overwrite` keeps until its successor is planned."""
    is_whole = (out / INFO_FILE).exists() and (out / MANIFEST_FILE).exists()
    journal = out / JOURNAL_DIR
    return is_whole and ((journal / REPLACE_MARKER).exists() or not is_begun(journal))


def remove_replaced(out: Path, journal: Journal) -> None:
    """Remove a finished dataset, now that its successor is planned. Killed midway, it goes on.

    Raises:
        ShardError: the disk refuses.
    """
    with told(out):
        _remove_all(out)
        (journal.folder / REPLACE_MARKER).unlink()


def make_folder(out: Path) -> None:
    """Make the output folder.

    Raises:
        ConfigError: it cannot be made.
        ShardError: the disk refuses.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            with told(out):
                raise
        raise ConfigError(f"--out {out}: cannot be made: {error.strerror}") from error


def is_finished(out: Path) -> bool:
    """Whether a conversion came to its end here, with or without samples."""
    return (out / MANIFEST_FILE).exists() and not is_begun(out / JOURNAL_DIR)


def refuse_foreign(out: Path, options: ConvertOptions) -> None:
    """Refuse a folder that holds something the options do not allow to touch.

    Raises:
        ConfigError: it does.
    """
    if is_remote(out):
        raise ConfigError(f"--out {out}: this needs a folder; give one, and copy what it makes")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    ours = {MANIFEST_FILE, JOURNAL_DIR} & set(names)
    foreign = [name for name in names if not (ours and is_ours(name))]
    if foreign:
        raise ConfigError(
            f"--out {out}: holds other files ({', '.join(foreign[:3])}); give a new or empty folder"
        )
    begun = MANIFEST_FILE in names or is_begun(out / JOURNAL_DIR)
    if not begun or options.resume or options.overwrite:
        return
    if is_finished(out):
        raise ConfigError(
            f"--out {out}: holds a finished dataset; give another folder, or --overwrite"
        )
    raise ConfigError(
        f"--out {out}: holds an unfinished conversion; go on with --resume, or --overwrite"
    )


def is_ours(name: str) -> bool:
    """Whether a file of a dataset, finished or not, has such a name."""
    name = name.removesuffix(TEMPORARY_SUFFIX)
    known = (META_DIR, JOURNAL_DIR, MANIFEST_FILE, QUARANTINE_FILE, DUPLICATES_FILE)
    return name in known or _SHARD.fullmatch(name) is not None


def _empty(out: Path, journal: Journal) -> None:
    write_file(journal.folder / OVERWRITE_MARKER, b"")
    with told(out):
        (journal.folder / RETRY_MARKER).unlink(missing_ok=True)
        _remove_all(out)
        journal.clear()


def _remove_all(out: Path) -> None:
    # The commit marker first: what is half removed must not look whole.
    (out / INFO_FILE).unlink(missing_ok=True)
    for path in sorted(out.iterdir()):
        if path.name == META_DIR:
            shutil.rmtree(path)
        elif path.name != JOURNAL_DIR and is_ours(path.name):
            path.unlink()
