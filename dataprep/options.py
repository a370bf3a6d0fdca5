"""What a user may choose about a conversion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..errors import ConfigError
from ..loaders.image_header import PIXEL_LIMIT

MAX_RADIUS = 10
MAX_SHARE = 1e6
MAX_SHARD_BYTES = 8 << 40
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_ENCODING = re.compile(r"(webp|jpeg):([0-9]{1,3})")
_DEDUP = re.compile(r"exact|perceptual(?::([0-9]{1,3}))?")
_RADIUS = 4
_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of `convert`. The first group decides what is written, byte for byte."""

    shard_size_bytes: int = 1_000_000_000
    """A shard is closed before it exceeds this, unless a single sample does."""
    shard_count: int = 100_000
    """At most this many samples in a shard."""
    split: Mapping[str, float] = field(default_factory=lambda: {"train": 1.0})
    """Split name -> share; a record goes by the hash of its id alone."""
    shuffle: int | None = None
    """Seed of the order of records; None keeps the source's order."""
    placeholder: Literal["reject", "insert"] = "reject"
    """What to do with an image record that has no '<image>' at all."""
    check: Literal["header", "decode", "none"] = "header"
    """How closely images are looked at."""
    pixel_limit: int = PIXEL_LIMIT
    """Largest width x height of an image."""
    limit: int | None = None
    """Only the first so many records of the source."""
    format: str = "auto"
    """Form of the source's JSON records, a name in readers/form.FORMS; `auto` recognizes it."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a record -> column of a table that it is in; see readers/columns.py."""
    annotations: str | None = None
    """File of the answers, where the source is a file of VQAv2's questions."""
    reader: str | None = None
    """`module:function` of a user's own, which yields the records of the source."""
    layout: Literal["neva", "vqa", "captioning", "interleaved", "similarity"] = "neva"
    """Type of the samples; see layouts.py."""

    resize: int | None = None
    """Shorter edge, in pixels, to which larger images are shrunk."""
    max_pixels: int | None = None
    """Width x height to which larger images are shrunk."""
    reencode: str | None = None
    """`webp:Q` or `jpeg:Q`: the encoding of every image that gets smaller by it."""

    filter: Sequence[str] = ()
    """Expressions that a record must pass, each of them; see expression.py."""

    dedup: str | None = None
    """`exact` or `perceptual:R`: leave out records that repeat an earlier one; see dedup.py."""
    dedup_by: Literal["record", "images"] = "record"
    """What must be the same: texts and images, or images alone."""
    exclude: Sequence[str] = ()
    """Evaluation sets, each a dataset, a source, or SOURCE=IMAGES; see leakage.py."""
    exclude_by: Literal["both", "images", "questions"] = "both"
    """What of an evaluation set must not occur."""

    sample_index: bool = True
    """Whether to write index.sqlite, by which samples are looked up one by one."""

    on_error: Literal["quarantine", "fail"] = "quarantine"
    max_errors: int | float | None = None
    """Stop beyond this many rejected records (int) or this share of all (float, 0 to 1)."""
    workers: int = 1
    engine: Literal["local", "ray"] = "local"
    """Who writes the shards: processes of this machine, or tasks on a Ray cluster."""
    ray_address: str | None = None
    """Of the cluster; None for the one that RAY_ADDRESS names, or else this machine alone."""
    spool: str | None = None
    """Folder for a dataset on its way to an address; None for one in the cache."""
    waiting_shards: int | None = None
    """Finished shards that may lie in the output folder; more are waited for. None for any."""
    resume: bool = False
    finish: bool = False
    """Write no shard: make the dataset of those that tasks wrote."""
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.shard_size_bytes < 10_240:
            raise ConfigError(
                f"--shard-size {self.shard_size_bytes}: a tar has 10,240 bytes at least"
            )
        if self.shard_size_bytes > MAX_SHARD_BYTES:
            raise ConfigError(f"--shard-size {self.shard_size_bytes}: at most 8 TiB")
        for name in ("shard_count", "workers", "pixel_limit"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be 1 or more")
        for name in ("limit", "resize", "max_pixels"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be 1 or more")
        if self.format != "auto":
            from .readers.form import FORMS
            from .readers.open import CONTAINERS

            known = sorted({*FORMS, *CONTAINERS})
            if self.format not in known:
                raise ConfigError(f"--format {self.format}: give one of auto, {', '.join(known)}")
        if self.reader is not None and self.format not in ("auto", "llava"):
            raise ConfigError("--reader yields records in LLaVA's form; leave --format out")
        if self.filter:
            from .filter import Filters

            Filters(self.filter)
        if self.dedup is not None:
            parse_dedup(self.dedup)
        elif self.dedup_by != "record":
            raise ConfigError(f"--dedup-by {self.dedup_by} is for --dedup; give both or none")
        if self.exclude_by != "both" and not self.exclude:
            raise ConfigError(f"--exclude-by {self.exclude_by} is for --exclude; give both or none")
        if self.layout != "neva" and self.check == "none":
            raise ConfigError(
                f"--layout {self.layout}: needs to know what images are; use --check header"
            )
        if self.reencode is not None:
            parse_encoding(self.reencode)
        for name, share in self.split.items():
            if not _SPLIT_NAME.fullmatch(name) or not 0 < share <= MAX_SHARE:
                raise ConfigError(
                    f"--split {name}={share:g}: a split has a name of letters, digits and '_', and "
                    "a share above 0 (at most a million); leave out a split that is to be empty"
                )
        if not self.split:
            raise ConfigError("--split names no split; for example train=0.98,val=0.02")
        if self.ray_address is not None and self.engine != "ray":
            raise ConfigError("--ray-address is for --engine ray; give both or none")
        if self.finish and (self.overwrite or self.dry_run):
            raise ConfigError("--finish ends what tasks wrote; give no --overwrite or --dry-run")
        if self.resume and self.overwrite:
            raise ConfigError(
                "--resume keeps what is there, --overwrite removes it; give one of them"
            )

    def deciding(self) -> dict[str, Any]:
        """The options that decide the bytes of the output."""
        return {
            "shard_size_bytes": self.shard_size_bytes,
            "shard_count": self.shard_count,
            "split": dict(self.split),
            "shuffle": self.shuffle,
            "placeholder": self.placeholder,
            "check": self.check,
            "pixel_limit": self.pixel_limit,
            "limit": self.limit,
            "format": self.format,
            "columns": dict(self.columns),
            "annotations": self.annotations,
            "reader": self.reader,
            "layout": self.layout,
            "resize": self.resize,
            "max_pixels": self.max_pixels,
            "reencode": self.reencode,
            "filter": list(self.filter),
            "dedup": self.dedup,
            "dedup_by": self.dedup_by,
            "exclude": list(self.exclude),
            "exclude_by": self.exclude_by,
            "sample_index": self.sample_index,
        }


class Encoding(NamedTuple):
    """How changed images are stored."""

    extension: str
    """Of the member: `jpg`, `webp` or `png`."""
    quality: int = 95
    """1 to 100; PNG, which loses nothing, has none."""


def parse_encoding(text: str) -> Encoding:
    """The encoding that `webp:90` or `jpeg:95` names.

    Raises:
        ConfigError: it names none.

    Example:
        >>> parse_encoding("jpeg:95")
        Encoding(extension='jpg', quality=95)
    """
    match = _ENCODING.fullmatch(text)
    if not match or not 1 <= int(match[2]) <= 100:
        raise ConfigError(f"--reencode {text!r}: give webp:Q or jpeg:Q with a quality of 1 to 100")
    return Encoding("jpg" if match[1] == "jpeg" else match[1], int(match[2]))


def parse_dedup(text: str) -> int | None:
    """Bits of 64 in which images that look alike may differ; None where files are compared.

    Raises:
        ConfigError: it is no way to compare.

    Example:
        >>> parse_dedup("exact"), parse_dedup("perceptual"), parse_dedup("perceptual:8")
        (None, 4, 8)
    """
    match = _DEDUP.fullmatch(text)
    radius = int(match[1] or _RADIUS) if match else 0
    if not match or radius > MAX_RADIUS:
        raise ConfigError(
            f"--dedup {text!r}: give exact or perceptual:R with an R up to {MAX_RADIUS}"
        )
    return None if text == "exact" else radius


def parse_size(text: str) -> int:
    """Bytes of a size such as `1GB`, `512MiB` or `1000`.

    Raises:
        ConfigError: it is no size.

    Example:
        >>> parse_size("1.5kB"), parse_size("1KiB")
        (1500, 1024)
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is no size; write for example 1GB, 512MiB or 1000000")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


def parse_split(text: str) -> dict[str, float]:
    """Shares of `train=0.98,val=0.02`.

    Raises:
        ConfigError: it cannot be read, or names a split twice.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            if name.strip() in shares:
                raise ValueError("named twice")
            shares[name.strip()] = float(share)
        except ValueError as error:
            raise ConfigError(
                f"--split {text!r}: cannot read {part!r}; write for example train=0.98,val=0.02"
            ) from error
    return shares


def parse_columns(text: str) -> dict[str, str]:
    """Field -> column of `image=path,question=q`.

    Raises:
        ConfigError: it cannot be read.

    Example:
        >>> parse_columns("image=file path,answer=label")
        {'image': 'file path', 'answer': 'label'}
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(field.strip() and column.strip() for field, _, column in pairs):
        raise ConfigError(
            f"--columns {text!r}: write for example image=file,question=ask,answer=label"
        )
    return {field.strip(): column.strip() for field, _, column in pairs}


def parse_max_errors(text: str) -> int | float:
    """A count such as `100`, or a share such as `0.5%`.

    Raises:
        ConfigError: it is neither.
    """
    try:
        limit = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError as error:
        raise ConfigError(f"--max-errors {text!r}: give a count (100) or a share (0.5%)") from error
    if not 0 <= limit < math.inf:
        raise ConfigError(f"--max-errors {text!r}: must be 0 or more")
    return limit
