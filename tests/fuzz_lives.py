"""Lives of datasets: converted in several ways, killed, resumed, retried; the end is the same.

python tests/fuzz_lives.py FIRST [COUNT]     runs the lives of some seeds
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from convert_help import Converted, files_of, read_quarantine, write_quarantine
from killed import run_killed
from lives_source import Lived, make_lived

from neva_prep.dataprep.convert import convert, stored_report
from neva_prep.dataprep.doctor.diff import diff
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.report import ConvertReport
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.task import Task, convert_task
from neva_prep.dataprep.verify import verify
from neva_prep.errors import NevaPrepError

_RARE: dict[str, tuple[Any, ...]] = {
    "split": ({"train": 0.5, "val": 0.5}, {"train": 0.6, "val": 0.2, "test": 0.2}),
    "shard_count": (1, 2, 5),
    "shuffle": (0, 7),
    "dedup": ("exact", "perceptual:4"),
    "filter": (["width >= 20 or images == 0"], ["turns <= 2"], ["images > 0", "turns < 4"]),
    "layout": ("vqa", "captioning", "interleaved"),
    "placeholder": ("insert",),
    "check": ("decode",),
    "limit": (1, 9),
    "pixel_limit": (400, 2000),
    "resize": (8, 20),
    "max_pixels": (100,),
    "reencode": ("webp:80", "jpeg:95"),
}
_OFTEN = {"split": 0.5, "shard_count": 0.5, "shuffle": 0.3, "dedup": 0.25, "filter": 0.2}
_CHANGING = ("placeholder", "resize", "max_pixels", "reencode")


class Fault(AssertionError):
    """What must not happen, happened."""


@dataclass
class Life:
    """One dataset's, of a seed."""

    random: Random
    folder: Path
    lived: Lived
    given: dict[str, Any]

    def options(self, **more: Any) -> ConvertOptions:
        """Of a conversion, with others that change no byte."""
        return ConvertOptions(**self.given, **more)


def live(seed: int, folder: Path) -> None:
    """Run the life of a seed.

    Raises:
        Fault: a record is lost, a number is wrong, or one way gave other bytes than another.
    """
    random = Random(f"life {seed}")
    given = {
        name: random.choice(values)
        for name, values in _RARE.items()
        if random.random() < _OFTEN.get(name, 0.12)
    }
    life = Life(random, folder, make_lived(random), given)
    source, images = life.lived.write(folder, mended=False, images=False)
    out = folder / "out"
    try:
        report = convert(source, images, out, life.options())
    except NevaPrepError:
        # All of it was left out, say.
        return
    _judge(out, report)
    _ways(life, source, images, report)
    _compare(life, source, images, report)
    if report.rejected and report.samples and "dedup" not in given:
        _mend(life, out)


def _ways(life: Life, source: Path, images: Path, report: ConvertReport) -> None:
    """Every way to convert gives the same bytes, and a dry run the same numbers."""
    random, expected = life.random, files_of(life.folder / "out")
    dry = convert(source, images, life.folder / "dry", life.options(dry_run=True))
    _same(_numbers(dry, "bytes"), _numbers(report, "bytes"), "a dry run")
    workers = convert(source, images, life.folder / "workers", life.options(workers=2))
    _same(_numbers(workers), _numbers(report), "the report of two workers")
    _same(files_of(life.folder / "workers"), expected, "two workers")
    killed = life.folder / "killed"
    _until_done(
        random,
        lambda again: convert(source, images, killed, life.options(resume=again)),
    )
    _same(files_of(killed), expected, "killed and resumed")
    run_killed(
        random.randrange(1, 40),
        lambda: convert(source, images, killed, life.options(overwrite=True)),
    )
    convert(source, images, killed, life.options(resume=True))
    _same(files_of(killed), expected, "an overwrite, killed and resumed")
    tasks, count = life.folder / "tasks", random.randrange(1, 4)
    for number in random.sample(range(count), count):
        convert_task(source, images, tasks, life.options(), Task(number=number, count=count))
    convert(source, images, tasks, life.options(finish=True))
    _same(files_of(tasks), expected, "tasks")


def _compare(life: Life, source: Path, images: Path, report: ConvertReport) -> None:
    """A dataset differs from its source in what was rejected or left out, and in nothing else."""
    if not report.samples or any(name in life.given for name in _CHANGING):
        return
    found = diff(source, life.folder / "out", images_a=images)
    missing = found.a.rows - report.samples
    _same((found.changed, found.added, found.removed), (0, 0, missing), f"diff {found}")


def _mend(life: Life, out: Path) -> None:
    """Retries end with what converting the mended source gives."""
    random, lived, before = life.random, life.lived, stored_report(out)
    report = retry(out / "quarantine.jsonl")
    _same(_numbers(report), _numbers(before), "a retry of what is as it was")
    whole = life.folder / "whole"
    try:
        source, images = lived.write(life.folder / "mended", mended=True, images=True)
        expected = convert(source, images, whole, life.options())
    except NevaPrepError:
        return
    lived.write(life.folder, mended=False, images=True)
    rows = [row["index"] for row in read_quarantine(out)]
    random.shuffle(rows)
    parts = random.choice((1, 2, 3))
    for part in range(parts):
        _fix(life, out, {*rows[part::parts]})
        for step in random.sample((_stop, _retry), random.choice((1, 2))):
            if read_quarantine(out):
                step(life, out)
                _judge(out, stored_report(out))
    _same(_samples(out), _samples(whole), "retries and the mended source")
    _same(stored_report(out).samples, expected.samples, "samples")


def _retry(life: Life, out: Path) -> None:
    """Retry at one go, as a dry run foretells it, or killed a few times."""
    quarantine = out / "quarantine.jsonl"
    if life.random.random() < 0.5:
        dry = retry(quarantine, changes={"dry_run": True})
        report = retry(quarantine, changes={"workers": 2})
        _same(_numbers(dry, "bytes"), _numbers(report, "bytes"), "a dry run of a retry")
    else:
        _until_done(life.random, lambda again: retry(quarantine, changes={"resume": again}))


def _fix(life: Life, out: Path, indices: set[int]) -> None:
    """Correct some records in the quarantine."""
    fixed = read_quarantine(out)
    for row in fixed:
        if row["index"] in indices:
            row["record"] = life.lived.mended[row["index"]]
    write_quarantine(out, fixed)


def _stop(life: Life, out: Path) -> None:
    """Retry, and where something is still wrong, correct it before the retry goes on."""
    try:
        retry(out / "quarantine.jsonl", changes={"max_errors": 0})
    except NevaPrepError as error:
        if "stopped after" not in str(error):
            raise
        _fix(life, out, {*range(len(life.lived.rows))})
        retry(out / "quarantine.jsonl", changes={"resume": True})


def _judge(out: Path, report: ConvertReport) -> None:
    """Every record is in one place, and every number is that of what is there."""
    done = Converted(out, report)
    samples = done.samples
    places = [*map(int, samples), *(row["index"] for row in done.rows)]
    members = [{k: v for k, v in sample.items() if k != "json"} for sample in samples.values()]
    tars = list(out.glob("*.tar"))
    found = {
        "records": len(set(places)) + sum(report.filters.values()),
        "samples": len(samples),
        "rejected": len(done.rows),
        "rejections": Counter(row["reason"] for row in done.rows),
        "images": sum(map(len, members)),
        "image_bytes": sum(len(image) for sample in members for image in sample.values()),
        "turns": sum(len(row["conversations"]) for row in done.records.values()),
        "shards": len(tars),
        "bytes": sum(path.stat().st_size for path in tars),
        "splits": _splits(out),
    }
    _same({name: getattr(report, name) for name in found}, found, "a report")
    if report.samples and (findings := verify(out).findings):
        raise Fault(f"verify finds {findings}")


def _splits(out: Path) -> Counter[str]:
    """Samples of each split, as the manifest has them, which `verify` holds against the shards."""
    counted: Counter[str] = Counter()
    for shard in json.loads((out / "neva-prep.json").read_bytes())["shards"]:
        counted[shard["split"]] += shard["samples"]
    return counted


def _samples(out: Path) -> dict[str, Any]:
    """Samples by key, whatever their shards and the spelling of their JSON."""
    read = Converted(out, stored_report(out)).samples
    return {key: {**sample, "json": json.loads(sample["json"])} for key, sample in read.items()}


def _numbers(report: ConvertReport, *without: str) -> dict[str, Any]:
    return {name: value for name, value in report.counts().items() if name not in without}


def _same(found: Any, expected: Any, what: str) -> None:
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        names = {name for name in {*found, *expected} if found.get(name) != expected.get(name)}
        shown = {name: (found.get(name), expected.get(name)) for name in sorted(names)[:3]}
        raise Fault(f"{what}: {sorted(names)} differ: {str(shown)[:2000]}")
    raise Fault(f"{what}: {found}, not {expected}")


def _until_done(random: Random, work: Callable[[bool], object]) -> None:
    """Do something that is killed a few times, told whether it was begun before."""
    was_begun = False
    for _ in range(4):
        if not run_killed(random.randrange(1, 60), partial(work, was_begun)):
            return
        was_begun = True
    work(True)


def main() -> None:
    """Run the lives of some seeds."""
    first, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(prefix="neva-prep-life-") as folder:
            try:
                live(seed, Path(folder))
            except Exception as error:
                print(f"{seed}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
