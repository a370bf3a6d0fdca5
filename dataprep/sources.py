"""Several sources in one call: each becomes a dataset of its own, and one file blends them.

A.json, B.jsonl ──convert──▶ OUT/A/, OUT/B/ ──▶ OUT/metadataset.yaml, a MetadatasetV2 of energon
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..errors import ConfigError, NevaPrepError, RecordError
from ..loaders.remote import is_remote
from .convert import convert
from .files import TEMPORARY_SUFFIX, sync_folder, told, write_file
from .options import ConvertOptions
from .report import ConvertReport
from .watch import Watch
from .workplace import stays_for_now

METADATASET_FILE = "metadataset.yaml"
SCHEMA_VERSION = 1
MAX_META_BYTES = 16 << 20
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of several sources."""

    name: str
    """Of its folder under OUT."""
    source: Path
    images: str | None = None
    """Where its images lie; None for where the source has them."""
    weight: float = 1.0
    """Share of its samples among all that are drawn, relative to the other weights."""
    repeats: float | None = None
    """Instead of a weight: how often each of its samples is drawn, relative to the others'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralReport:
    """What happened to every record of every source."""

    out: Path
    metadataset: Path | None
    """The file that blends the datasets; None in a dry run."""
    reports: dict[str, ConvertReport]
    """By the names of the datasets."""

    @property
    def exit_code(self) -> int:
        """0, or 4 where records were rejected."""
        return 4 if any(report.rejected for report in self.reports.values()) else 0

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "out": os.fspath(self.out),
            "metadataset": self.metadataset and os.fspath(self.metadataset),
            "datasets": {name: report.to_dict() for name, report in self.reports.items()},
        }


def _unwatched(number: int, part: Part) -> AbstractContextManager[Watch]:
    return nullcontext(Watch())


def convert_several(
    parts: Sequence[Part],
    out: Path,
    options: ConvertOptions | None = None,
    watch: Callable[[int, Part], AbstractContextManager[Watch]] = _unwatched,
) -> SeveralReport:
    """Convert sources one after the other, each as it would be by itself.

    With `resume`, those that are finished stay, and the first that is not goes on. A blend that is
    there is removed with the first dataset that is replaced, and its successor is written last.

    Args:
        parts: the sources; see `parts_of`.
        out: folder of the datasets.
        options: of each conversion.
        watch: called with a source's number, from 1; gives what is told of its progress.

    Raises:
        NevaPrepError: as `convert`; the message begins with the source.
        RecordError: a source gave no sample, so that there is nothing to blend.
    """
    options = options or ConvertOptions()
    if not options.dry_run:
        _refuse_foreign(out, parts, options)
    reports = {}
    for number, part in enumerate(parts, start=1):
        try:
            with watch(number, part) as told_of:
                target = out / part.name
                reports[part.name] = convert(
                    part.source,
                    part.images,
                    target,
                    options,
                    told_of,
                    before_removal=lambda: _remove_blend(out),
                )
        except NevaPrepError as error:
            message = f"source {number} of {len(parts)} ({part.source}): {error}"
            raise type(error)(message, reason=error.reason) from error
    for part in parts:
        _refuse_empty(part, reports[part.name])
    if options.dry_run:
        return SeveralReport(out=out, metadataset=None, reports=reports)
    content = yaml.safe_dump(_metadataset(parts, reports), sort_keys=False)
    write_file(out / METADATASET_FILE, content.encode())
    return SeveralReport(out=out, metadataset=out / METADATASET_FILE, reports=reports)


def parts_of(
    sources: Sequence[Path], images: Sequence[str], weights: Sequence[float]
) -> list[Part]:
    """The sources that a user names, or that a meta file names.

    Args:
        sources: files; or one meta file of InternVL, which names them with their repeat factors.
        images: none, one for all, or one for each source.
        weights: none, or one for each source.

    Raises:
        ConfigError: their numbers do not fit, or a weight is none.
        RecordError: the meta file is no such file, or names nothing that is there.
    """
    if len(sources) == 1 and (meta := read_meta(sources[0])) is not None:
        if images or weights:
            raise ConfigError(
                f"{sources[0]}: a meta file names images and weights itself; leave out --images "
                "and --weight"
            )
        return _named(meta)
    for option, given, allowed in (
        ("--images", images, {0, 1, len(sources)}),
        ("--weight", weights, {0, len(sources)}),
    ):
        if len(given) not in allowed:
            raise ConfigError(
                f"{option} is given {len(given)} times for {len(sources)} sources; give one each"
            )
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise ConfigError(f"--weight {weight:g}: must be a number above 0")
    per_source = images if len(images) != 1 else list(images) * len(sources)
    return _named(
        [
            Part(
                name=source.name.partition(".")[0],
                source=source,
                images=per_source[number] if per_source else None,
                weight=weights[number] if weights else 1.0,
            )
            for number, source in enumerate(sources)
        ]
    )


class _Meta(msgspec.Struct):
    """An entry of InternVL's meta file; what else it holds is for its trainer."""

    annotation: str
    root: str = ""
    repeat_time: float = 1.0


def read_meta(path: Path) -> list[Part] | None:
    """The sources of a meta file: `{name: {"root", "annotation", "repeat_time", ...}}`.

    Paths in it are relative to the folder it lies in, or else to the current one.

    Returns:
        None where it is no such file.

    Raises:
        RecordError: it is one, and an entry of it is broken or leads nowhere.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_META_BYTES:
            return None
        entries = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except (OSError, ValueError, RecursionError):
        return None
    if not entries or not all("annotation" in entry for entry in entries.values()):
        return None
    parts = []
    for name, fields in entries.items():
        try:
            entry = msgspec.convert(fields, _Meta)
        except msgspec.ValidationError as error:
            raise RecordError(f"{path}: {name!r}: {error}; correct the entry") from error
        if not 0 < entry.repeat_time < float("inf"):
            raise RecordError(
                f"{path}: {name!r}: 'repeat_time' is {entry.repeat_time:g}; give a number above 0, "
                "or remove the entry"
            )
        source = _locate(path, name, entry.annotation)
        images = os.fspath(_locate(path, name, entry.root)) if entry.root else None
        parts.append(Part(name=name, source=source, images=images, repeats=entry.repeat_time))
    return parts


def _locate(meta: Path, name: str, given: str) -> Path:
    if "://" in given:
        return Path(given)
    for path in (meta.parent / given, Path(given)):
        with suppress(OSError):  # A name can be too long for a file.
            if path.exists():
                return path
    raise RecordError(
        f"{meta}: {name!r}: {given!r} lies neither beside the meta file nor in the current folder; "
        "correct the path"
    )


def _named(parts: list[Part]) -> list[Part]:
    """The same with names that are folders, each its own."""
    taken: set[str] = set()
    named = []
    for part in parts:
        plain = _UNFIT.sub("_", part.name).strip("_")[:60] or "source"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name)
        named.append(replace(part, name=name))
    return named


def _metadataset(parts: Sequence[Part], reports: dict[str, ConvertReport]) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for part in parts:
        for split, samples in reports[part.name].splits.items():
            # energon's weights are shares of what is drawn: a repeat factor is one of each sample.
            weight = part.weight if part.repeats is None else part.repeats * samples
            blend = splits.setdefault(split, {"blend": []})["blend"]
            blend.append({"path": f"./{part.name}", "weight": float(weight)})
    return {"__module__": "megatron.energon", "__class__": "MetadatasetV2", "splits": splits}


def _refuse_foreign(out: Path, parts: Sequence[Part], options: ConvertOptions) -> None:
    if is_remote(out):
        raise ConfigError(
            f"--out {out}: several sources need a folder; convert each to an address of its own, "
            "and give the addresses with their weights to the data module"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    names = {path.name.removesuffix(TEMPORARY_SUFFIX) for path in out.glob("*")}
    foreign = sorted(names - {METADATASET_FILE, *(part.name for part in parts)})
    if foreign:
        raise ConfigError(
            f"--out {out}: holds other files ({', '.join(foreign[:3])}); give a new or empty folder"
        )
    if not names or options.resume:
        return
    if not options.overwrite:
        how = "give another folder" if METADATASET_FILE in names else "go on with --resume"
        what = "finished" if METADATASET_FILE in names else "unfinished"
        raise ConfigError(f"--out {out}: holds {what} datasets; {how}, or --overwrite")
    if not all(stays_for_now(out / part.name) for part in parts):
        _remove_blend(out)


def _remove_blend(out: Path) -> None:
    """What is half replaced must not be blended."""
    with told(out):
        (out / METADATASET_FILE).unlink(missing_ok=True)
        sync_folder(out)


def _refuse_empty(part: Part, report: ConvertReport) -> None:
    if not report.samples:
        or_left_out = " or left out" if report.filtered else ""
        example = next((messages[0] for messages in report.examples.values()), "")
        raise RecordError(
            f"source {part.source}: all {report.records:,} records were rejected{or_left_out}, so "
            f"that there is nothing to blend; the first one: {example}. See {report.out}/"
            "quarantine.jsonl, then --retry it and give the same command with --resume; or leave "
            "the source out"
        )
