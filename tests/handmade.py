"""Datasets written by hand with tarfile and sqlite3, so that tests can also make damaged ones."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import tarfile
import uuid
from pathlib import Path
from typing import Any

import xxhash
import yaml
from PIL import Image

Members = list[tuple[str, bytes]]
"""Members of a sample: what follows the key in the name, and the bytes."""


def picture(width: int = 32, height: int = 24, kind: str = "JPEG", **options: Any) -> bytes:
    image = Image.radial_gradient("L").resize((width, height)).convert("RGB")
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def members(number: int, *, images: int = 1, text: str = "", **fields: Any) -> Members:
    """Members of a valid sample: JPEG and PNG in turns, then the record."""
    sizes = [(32 + number, 24 + place) for place in range(images)]
    kinds = [("jpg", "JPEG") if place % 2 == 0 else ("png", "PNG") for place in range(images)]
    names = [f"{place:03d}.{extension}" for place, (extension, _) in enumerate(kinds)]
    record = {
        "id": f"id-{number}",
        "image": [f"pictures/{number}-{name}" for name in names],
        "conversations": [
            {"from": "human", "value": "<image>\n" * images + (text or f"Question {number}?")},
            {"from": "gpt", "value": f"Answer {number}."},
        ],
        **fields,
        "images": [
            {"name": name, "source": f"pictures/{number}-{name}", "width": width, "height": height}
            for name, (width, height) in zip(names, sizes, strict=True)
        ],
    }
    parts = [
        (name, picture(*size, kind))
        for name, size, (_, kind) in zip(names, sizes, kinds, strict=True)
    ]
    return [*parts, ("json", json.dumps(record).encode())]


def valid_shards() -> dict[str, dict[str, Members]]:
    """Seven samples in two train shards and a val shard; one has two images, one none."""
    images = [1, 2, 1, 0, 1, 1, 1]
    samples = {f"{n:09d}": members(n, images=count) for n, count in enumerate(images)}
    keys = list(samples)
    return {
        "train-000000.tar": {key: samples[key] for key in keys[:3]},
        "train-000001.tar": {key: samples[key] for key in keys[3:5]},
        "val-000000.tar": {key: samples[key] for key in keys[5:]},
    }


def write_dataset(root: Path, shards: dict[str, dict[str, Members]] | None = None) -> Path:
    """A whole dataset: shards, index, metadata, manifest."""
    shards = valid_shards() if shards is None else shards
    meta = root / ".nv-meta"
    meta.mkdir(parents=True)
    sample_rows: list[tuple[Any, ...]] = []
    part_rows: list[tuple[Any, ...]] = []
    entries = []
    splits: dict[str, list[str]] = {}
    for number, (name, samples) in enumerate(shards.items()):
        write_shard(root / name, number, samples, sample_rows, part_rows)
        split = name.partition("-")[0]
        splits.setdefault(split, []).append(name)
        tar = (root / name).read_bytes()
        entries.append(
            {
                "name": name,
                "split": split,
                "samples": len(samples),
                "images": sum(len(parts) - 1 for parts in samples.values()),
                "bytes": len(tar),
                "xxh3_128": xxhash.xxh3_128_hexdigest(tar),
            }
        )
    write_index(meta / "index.sqlite", sample_rows, part_rows)
    (meta / "index.uuid").write_text(str(uuid.UUID(int=7)))
    (meta / "split.yaml").write_text(yaml.dump({"split_parts": splits, "exclude": []}))
    (meta / "dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")
    write_manifest(root, entries)
    counts = {name: len(samples) for name, samples in shards.items()}
    (meta / ".info.json").write_text(
        json.dumps({"energon_version": "7.4.1", "shard_counts": counts}, indent=2)
    )
    return root


def write_shard(
    path: Path,
    number: int,
    samples: dict[str, Members],
    sample_rows: list[tuple[Any, ...]],
    part_rows: list[tuple[Any, ...]],
) -> None:
    starts = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for place, (key, parts) in enumerate(samples.items()):
            starts.append(tar.offset)
            for name, data in parts:
                header = tarfile.TarInfo(f"{key}.{name}")
                header.size = len(data)
                part_rows.append((number, place, name, tar.offset + 512, len(data)))
                tar.addfile(header, io.BytesIO(data))
            sample_rows.append((number, key, place, starts[-1], tar.offset - starts[-1]))
        starts.append(tar.offset)
    Path(f"{path}.idx").write_bytes(struct.pack(f"<{len(starts)}Q", *starts))


def write_index(
    path: Path, sample_rows: list[tuple[Any, ...]], part_rows: list[tuple[Any, ...]]
) -> None:
    database = sqlite3.connect(path)
    database.executescript(
        """
        CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE,
            sample_index INTEGER NOT NULL, byte_offset INTEGER, byte_size INTEGER);
        CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT,
            content_byte_offset INTEGER, content_byte_size INTEGER);
        CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
        CREATE INDEX idx_sample_parts_seq
            ON sample_parts(tar_file_id, sample_index, content_byte_offset);
        CREATE INDEX idx_sample_parts_full ON sample_parts(tar_file_id, sample_index, part_name,
            content_byte_offset, content_byte_size);
        """
    )
    database.executemany("INSERT INTO samples VALUES (?,?,?,?,?)", sample_rows)
    database.executemany("INSERT INTO sample_parts VALUES (?,?,?,?,?)", part_rows)
    database.commit()
    database.close()


def write_manifest(root: Path, shards: list[dict[str, Any]]) -> None:
    manifest = {
        "format_version": 1,
        "source": {
            "name": "llava.json",
            "format": "llava-json",
            "bytes": 1,
            "xxh3_128": "0" * 32,
            "images": "/pictures",
        },
        "options": {},
        "shards": shards,
        "report": {},
    }
    (root / "neva-prep.json").write_text(json.dumps(manifest))


def write_source(root: Path, records: int = 12) -> tuple[Path, Path]:
    """A valid LLaVA source and its image folder; record 3 has no image, record 5 has two."""
    images = root / "pictures"
    images.mkdir(parents=True)
    rows = []
    for number in range(records):
        count = {3: 0, 5: 2}.get(number, 1)
        names = [f"{number}-{place}.{'png' if place else 'jpg'}" for place in range(count)]
        for place, name in enumerate(names):
            (images / name).write_bytes(
                picture(40 + number, 30 + place, "PNG" if place else "JPEG")
            )
        rows.append(
            {
                "id": f"id-{number}",
                **({"image": names} if names else {}),
                "conversations": [
                    {"from": "human", "value": "<image>\n" * count + f"Question {number}?"},
                    {"from": "gpt", "value": f"Answer {number}."},
                ],
                "score": number / 8,
            }
        )
    source = root / "llava.json"
    source.write_text(json.dumps(rows))
    return source, images
