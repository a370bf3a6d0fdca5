"""100,000 samples from a loader: memory stays, no descriptor leaks.

Small images, so that much of what could leak happens often: opening shards, shuffling, packing,
workers handing over batches. Resident memory (of this process and its workers, shared pages counted
once each) and open files are compared between a tenth of the way and the end.

Run: python benchmarks/soak_loader.py [--samples 100000] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from neva_prep.loaders import EnergonMultiModalDataModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a process and its workers hold."""

    samples: int
    """Given until then."""
    rss_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """A run."""

    early: Footprint
    late: Footprint
    seconds: float

    @property
    def growth(self) -> float:
        """Of resident memory, as a share of the early one."""
        return self.late.rss_bytes / self.early.rss_bytes - 1


def soak(data: EnergonMultiModalDataModule, samples: int) -> Soak:
    """Read so many samples, and compare a tenth of the way with the end.

    Each footprint is the mean of the ten that are taken around its place.
    """
    stream = data.train_dataloader()
    taken: list[Footprint] = []
    count, start = 0, time.perf_counter()
    step = max(1, samples // 100)
    while count < samples:
        count += len(next(stream)["__keys__"])
        if count >= step * (len(taken) + 1):
            taken.append(footprint(count))
    return Soak(
        early=_mean(taken[5:15]), late=_mean(taken[-10:]), seconds=time.perf_counter() - start
    )


def footprint(samples: int) -> Footprint:
    """Of this process and its children."""
    pids = list(_family(os.getpid()))
    return Footprint(
        samples=samples,
        rss_bytes=sum(_rss_bytes(pid) for pid in pids),
        descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
    )


def _mean(taken: list[Footprint]) -> Footprint:
    return Footprint(
        samples=taken[-1].samples,
        rss_bytes=sum(each.rss_bytes for each in taken) // len(taken),
        descriptors=round(sum(each.descriptors for each in taken) / len(taken)),
    )


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


def _rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def make_source(folder: Path, records: int) -> Path:
    """Records with images of 32 x 24 pixels."""
    from corpus import image_name, make_thumbnails

    make_thumbnails(folder, records)
    rows = [
        {
            "id": str(number),
            "image": image_name(number),
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is {'very ' * (number % 40)}small?"},
                {"from": "gpt", "value": f"Number {number}."},
            ],
        }
        for number in range(records)
    ]
    (folder / "source.json").write_text(json.dumps(rows))
    return folder / "source.json"


def run(samples: int, workers: int) -> dict[str, Any]:
    """Packed batches of a converted source."""
    from tokenizer import make_tokenizer

    from neva_prep.dataprep.convert import convert
    from neva_prep.dataprep.options import ConvertOptions
    from neva_prep.loaders import ImageConfig, MultiModalTaskEncoder

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = make_source(folder, 4000)
        convert(source, folder, folder / "shards", ConvertOptions(shard_count=500))
        encoder = MultiModalTaskEncoder(
            make_tokenizer(),
            ImageConfig(size=28, mode="fast", output="uint8"),
            packed_sequence=True,
            packed_sequence_size=1024,
            num_image_embeddings_per_tile=4,
        )
        with EnergonMultiModalDataModule(
            folder / "shards", task_encoder=encoder, num_workers=workers
        ) as data:
            found = soak(data, samples)
    return {
        "samples": samples,
        "workers": workers,
        "seconds": found.seconds,
        "early_mb": found.early.rss_bytes / 1e6,
        "late_mb": found.late.rss_bytes / 1e6,
        "growth": found.growth,
        "early_descriptors": found.early.descriptors,
        "late_descriptors": found.late.descriptors,
    }


def main() -> None:
    """Measure, print, and write results/soak.json."""
    from machine import write_result

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    result = run(arguments.samples, arguments.workers)
    print(json.dumps(result, indent=2))
    print(write_result("soak", result))
    if result["growth"] > 0.05 or result["late_descriptors"] > result["early_descriptors"] + 2:
        raise SystemExit("memory or descriptors grew")


if __name__ == "__main__":
    main()
