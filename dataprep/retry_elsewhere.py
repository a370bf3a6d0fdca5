"""A `--retry` of a dataset that lies elsewhere: its metadata comes here, new shards go there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, NevaPrepError
from ..loaders.format import JOURNAL_DIR, MANIFEST_FILE, QUARANTINE_FILE
from ..loaders.remote import Place, open_place
from ..loaders.remote_copy import copy_object
from .files import temporary, told, write_file
from .journal import is_begun
from .report import ConvertReport
from .retry_stage import may_begin_anew
from .spool import SPARE_SHARDS, Checking, finish_upload, named, spool_of
from .upload import Uploader
from .watch import Watch
from .workplace import is_ours


def retry_elsewhere(
    quarantine: str | os.PathLike[str],
    changes: Mapping[str, Any],
    watch: Watch,
    retry: Callable[[Path, Mapping[str, Any], Watch], ConvertReport],
) -> ConvertReport:
    """Retry by way of a spool folder; see `retry.retry`.

    Args:
        quarantine: address of the dataset's quarantine.jsonl.
        changes: options that differ from those of the first conversion, by name.
        watch: told of the progress.
        retry: does it in a folder, with changes and a watch.

    Raises:
        NevaPrepError: as `retry`, and as `spool.convert_elsewhere`.
    """
    place = open_place(quarantine)
    if place.address.name != QUARANTINE_FILE:
        raise ConfigError(f"--retry {place}: give the {QUARANTINE_FILE} of a dataset")
    place = Place(place.address.parent)
    inner = {**changes, "spool": None}
    with spool_of(place, changes.get("spool")) as folder, named(folder, place):
        if _is_finished(place, folder):
            if not changes.get("resume"):
                raise ConfigError(f"{place}: holds an unfinished --retry; go on with --resume")
        elif not is_begun(folder / JOURNAL_DIR):
            _copy(place, folder)
        elif changes.get("resume") and may_begin_anew(folder / JOURNAL_DIR):
            # Its rows may have been corrected since the retry began.
            write_file(folder / QUARANTINE_FILE, place.read(QUARANTINE_FILE))
        try:
            if changes.get("dry_run"):
                report = retry(folder / QUARANTINE_FILE, inner, watch)
                shutil.rmtree(folder)
                return report
            inner["waiting_shards"] = int(changes.get("workers", 1)) + SPARE_SHARDS
            with Uploader(folder, place) as uploader:
                report = retry(folder / QUARANTINE_FILE, inner, Checking(watch, uploader))
                uploader.finish()
            finish_upload(place, folder)
        except NevaPrepError:
            # A copy of which nothing came is of no use.
            if not is_begun(folder / JOURNAL_DIR) and not _is_finished(place, folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise
    report.out = str(place)
    return report


def _is_finished(place: Place, folder: Path) -> bool:
    """Whether a retry came to its end here and was stopped before all of it was uploaded."""
    manifest = folder / MANIFEST_FILE
    if is_begun(folder / JOURNAL_DIR) or not manifest.exists():
        return False
    with told(manifest, "read"):
        return manifest.read_bytes() != place.read(MANIFEST_FILE)


def _copy(place: Place, folder: Path) -> None:
    """Copy all of a dataset but its shards, anew: its quarantine may have been corrected."""
    whole = temporary(folder)
    with told(folder):
        for old in (folder, whole):
            shutil.rmtree(old, ignore_errors=True)
        whole.mkdir(parents=True)
        for name, size in place.listed():
            if is_ours(name.partition("/")[0]) and not name.endswith((".tar", ".tar.idx")):
                (whole / name).parent.mkdir(exist_ok=True)
                copy_object(place / name, size, whole / name)
        os.rename(whole, folder)
