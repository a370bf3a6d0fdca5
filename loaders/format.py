"""The on-disk format, version 1: names of files, and what the JSON in them holds.

Imports nothing heavy, so that converting and verifying stay light.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ShardError

FORMAT_VERSION = 1
ENERGON_VERSION = "7.4.1"
"""The energon whose index we write; a test compares with `energon prepare` of this version."""

META_DIR = ".nv-meta"
INFO_FILE = f"{META_DIR}/.info.json"
"""Written last: its presence means that the dataset is whole."""
INDEX_FILE = f"{META_DIR}/index.sqlite"
INDEX_UUID_FILE = f"{META_DIR}/index.uuid"
SPLIT_FILE = f"{META_DIR}/split.yaml"
DATASET_FILE = f"{META_DIR}/dataset.yaml"
MANIFEST_FILE = "neva-prep.json"
QUARANTINE_FILE = "quarantine.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
"""Records left out by --dedup and --exclude, pair by pair."""
JOURNAL_DIR = ".journal"
"""Exists only while a conversion is unfinished."""

IMAGE_PLACEHOLDER = "<image>"


class ImageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a sample, as its JSON member lists it."""

    name: str
    """What follows the key in the member's name: `000.jpg` for `000000042.000.jpg`."""
    source: str
    """Path as the source record gave it."""
    width: int
    """Pixels, before any EXIF rotation."""
    height: int
    """Pixels, before any EXIF rotation."""


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One shard, as the manifest lists it."""

    name: str
    split: str
    samples: int
    images: int
    bytes: int
    """Size of the tar."""
    xxh3_128: str
    """Hash of the whole tar, in hexadecimal."""


class SourceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where a dataset came from."""

    name: str
    """File name of the source, without its folder."""
    format: str
    """`llava-json`, `llava-jsonl`, `sharegpt-jsonl`, `vqa-parquet`, ..."""
    bytes: int
    xxh3_128: str
    images: str
    """Image folder or another place of images; `--retry` looks there again."""
    form: str = "llava"
    """Of its records, as the quarantine holds them."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`neva-prep.json`: what the dataset holds and how it was made."""

    format_version: int
    source: SourceEntry
    options: dict[str, Any]
    shards: list[ShardEntry]
    """Sorted by name."""
    report: dict[str, Any]
    """Counts of records, images, turns, rejections, repairs, warnings; no times."""

    @property
    def has_sample_index(self) -> bool:
        """Whether index.sqlite is there, by which samples are looked up one by one."""
        return bool(self.options.get("sample_index", True))


def sample_key(ordinal: int) -> str:
    """Key of a sample: the zero-padded index of its record in the source; no dots, unique."""
    return str(ordinal).zfill(9)


def read_manifest(dataset: str | os.PathLike[str]) -> Manifest:
    """The manifest of a converted dataset.

    Raises:
        ShardError: the folder is no finished dataset of ours, or a newer version wrote it.
    """
    path = Path(dataset) / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise ShardError(
            f"{dataset}: no {MANIFEST_FILE} here; is this the --out folder of a finished convert?"
        ) from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}; see to the disk") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ShardError(f"{path}: is damaged ({error}); convert again") from error
    if manifest.format_version != FORMAT_VERSION:
        raise ShardError(
            f"{path}: format version {manifest.format_version}, this neva-prep reads "
            f"{FORMAT_VERSION}; update neva-prep"
        )
    return manifest
