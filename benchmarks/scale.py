"""Scale: planning ten million records, converting a million, two workers beside one.

    python benchmarks/scale.py [--plan 10000000] [--convert 1000000] [--only plan convert workers]

Parts that are not run keep the figures that they had.

- plan: a JSON array of ten million records (0.3 kB each) whose paths name 100,000 small images in
  turn, so that each record costs a look at a file. Time, and the most anonymous memory that the
  process and its workers held together; the file itself is mapped and not counted.
- convert: one worker over 10,000 and over a million records with tiny images. CPU time a record
  (user + system, as the kernel tells it at the end), less what starting costs: the same on ten
  records. Plan, shards, index and fsync are in it.
- workers: `--check decode` on photos with one worker and with two; time of day, medians.

Times of day mean little on a machine that does something else too: the result gives its load.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corpus import make_corpus
from machine import RESULTS, write_result
from measure import Usage, measure, peak_anonymous_bytes
from PIL import Image

BIN = Path(sys.executable).parent
PARTS = ("plan", "convert", "workers")
FEW = 10
IMAGES = 100_000
TARGETS = {
    "plan_seconds": ("<", 60.0),
    "plan_peak_anonymous_mb": ("<", 600.0),
    "cpu_per_record_large_over_small": ("<=", 1.15),
    "one_worker_over_two": (">=", 1.7),
}
WORDS = (
    b"a man rides a red bike along the quiet street near trees while birds fly over a bridge " * 4
)


def write_source(path: Path, records: int) -> Path:
    """A JSON array of records that name the images in turn; made once, a few bytes at a time."""
    with path.open("wb", buffering=1 << 22) as file:
        for number in range(records):
            at = number * 7919 % 80
            file.write(
                b'%s{"id": "%09d", "image": "%s", "conversations": [{"from": "human", "value": '
                b'"<image>\\nWhat is shown?"}, {"from": "gpt", "value": "%s"}]}'
                % (
                    b",\n" if number else b"[",
                    number,
                    image_name(number % IMAGES).encode(),
                    WORDS[at : at + 180],
                )
            )
        file.write(b"]\n")
    return path


def image_name(number: int) -> str:
    """Path of a tiny image: a thousand in a folder."""
    return f"{number // 1000:03d}/{number:06d}.jpg"


def make_images(folder: Path) -> Path:
    """Tiny images under many names, all of them links to one file."""
    folder.mkdir(parents=True)
    first = folder / "image.jpg"
    Image.new("RGB", (16, 16), (90, 120, 60)).save(first)
    for number in range(IMAGES):
        path = folder / image_name(number)
        path.parent.mkdir(exist_ok=True)
        # Some file systems allow a file 65,000 names.
        if number % 30_000 == 0 and number:
            shutil.copy(first, path)
            first = path
        else:
            os.link(first, path)
    return folder


def plan_only(source: str, images: str, folder: str, workers: str) -> None:
    """Plan; run as a process of its own."""
    from neva_prep.dataprep.options import ConvertOptions
    from neva_prep.dataprep.plan import make_plan
    from neva_prep.dataprep.source import open_source
    from neva_prep.dataprep.stores.open import open_images

    store = open_images(images, Path(folder))
    options = ConvertOptions(workers=int(workers))
    make_plan(open_source(Path(source)), store, options, Path(folder) / "plan.rows")


def bench_plan(folder: Path, images: Path, records: int) -> dict[str, Any]:
    """Time and memory of planning."""
    source = write_source(folder / "plan.json", records)
    workers = str(len(os.sched_getaffinity(0)))
    program = [sys.executable, __file__, "--run-plan", str(source), str(images), str(folder)]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = peak_anonymous_bytes([*program, workers], every_seconds=0.1)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    source.unlink()
    return {
        "plan_records": records,
        "plan_workers": int(workers),
        "plan_seconds": round(wall, 1),
        "plan_cpu_seconds": round(cpu, 1),
        "plan_peak_anonymous_mb": round(peak / 1e6, 1),
        "plan_peak_bytes_per_record": round(peak / records, 1),
    }


def bench_convert(folder: Path, images: Path, records: int, repeats: int) -> dict[str, Any]:
    """CPU time a record, of few records and of many."""
    small = min(10_000, records)
    # So many repeats of the small run that chance does not decide.
    counts = {FEW: 3 * repeats, small: 3 * repeats, records: repeats}
    runs: dict[int, list[Usage]] = {count: [] for count in counts}
    index_bytes = 0
    for count, times in counts.items():
        source = write_source(folder / "convert.json", count)
        for _ in range(times):
            out = folder / "out"
            runs[count].append(
                measure(convert_command(source, images, out, "--shard-count", "10000"))
            )
            index_bytes = (out / ".nv-meta" / "index.sqlite").stat().st_size
            shutil.rmtree(out)
        source.unlink()
    cpu = {count: statistics.median(run.cpu_seconds for run in runs[count]) for count in counts}
    each = {count: (cpu[count] - cpu[FEW]) / (count - FEW) * 1e6 for count in (small, records)}
    return {
        "convert_records": {"small": small, "large": records},
        "cpu_microseconds_per_record": {
            "small": round(each[small], 2),
            "large": round(each[records], 2),
        },
        "cpu_per_record_large_over_small": round(each[records] / each[small], 3),
        "index_bytes_per_sample": round(index_bytes / records, 1),
    }


def bench_workers(folder: Path, photos: int, repeats: int) -> dict[str, Any]:
    """Time of day with one worker and with two, where decoding is nearly all of the work."""
    corpus = make_corpus(images=photos)
    walls: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for workers, found in walls.items():
            out = folder / "out"
            options = ("--check", "decode", "--shard-size", "4MB", "--workers", str(workers))
            command = convert_command(corpus.source, corpus.folder, out, *options)
            found.append(measure(command).wall_seconds)
            shutil.rmtree(out)
    one, two = (statistics.median(found) for found in walls.values())
    return {
        "photos": photos,
        "decode_seconds": {"one_worker": round(one, 2), "two_workers": round(two, 2)},
        "one_worker_over_two": round(one / two, 3),
    }


def convert_command(source: Path, images: Path, out: Path, *options: str) -> list[str]:
    """A conversion by one worker, unless the options say otherwise."""
    where = ["--images", str(images), "--out", str(out), "--quiet", "--workers", "1"]
    return [str(BIN / "neva-prep"), "convert", str(source), *where, *options]


def judged(result: dict[str, Any]) -> Iterator[tuple[str, float, str, bool]]:
    """Each figure with a target: name, value, target, whether it is met."""
    for name, (sign, target) in TARGETS.items():
        for value in (result[part][name] for part in PARTS if name in result.get(part, {})):
            met = {"<": value < target, "<=": value <= target, ">=": value >= target}[sign]
            yield name, value, f"{sign} {target}", met


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plan", type=int, default=10_000_000)
    parser.add_argument("--convert", type=int, default=1_000_000)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; all of them"
    )
    parser.add_argument("--folder", type=Path, help="on a disk with 6 GB of room")
    parser.add_argument("--run-plan", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run_plan:
        plan_only(*given.run_plan)
        return
    stored = RESULTS / "scale.json"
    result: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="scale-") as name:
        folder = Path(name)
        images = make_images(folder / "images")
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "plan": lambda: bench_plan(folder, images, given.plan),
            "convert": lambda: bench_convert(folder, images, given.convert, given.repeats),
            "workers": lambda: bench_workers(folder, given.photos, given.repeats),
        }
        for part in given.only:
            load = [round(os.getloadavg()[0], 1)]
            result[part] = parts[part]()
            result[part]["load_before_and_after"] = [*load, round(os.getloadavg()[0], 1)]
    result["targets"] = {name: f"{sign} {target}" for name, (sign, target) in TARGETS.items()}
    print(json.dumps(result, indent=2))
    for figure, value, target, met in judged(result):
        print(f"{'ok  ' if met else 'MISS'} {figure}: {value} (target {target})")
    print(write_result("scale", result))


if __name__ == "__main__":
    main()
