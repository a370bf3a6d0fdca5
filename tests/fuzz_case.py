"""One case of fuzzing: a source made of a seed, converted, and what came of it judged.

python tests/fuzz_case.py SEED [KIND]     shows a case, and converts it
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzz_kinds import KINDS, Files
from fuzz_mutate import mutate_bytes, mutate_files, overwrite_bytes
from handmade import picture

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.reasons import REJECTIONS
from neva_prep.dataprep.report import ConvertReport
from neva_prep.dataprep.retry import retry
from neva_prep.dataprep.sources import convert_several, parts_of
from neva_prep.dataprep.verify import verify
from neva_prep.errors import NevaPrepError

MARK = b"NOBODY MAY READ THIS"
"""In a file beside the folder of images, to which paths and links lead."""
SECRET = picture(24, 16, comment=MARK)
LIMIT_SECONDS = 60.0
_LAYOUTS = ("neva", "neva", "neva", "vqa", "captioning", "interleaved", "similarity")


class Fault(AssertionError):
    """What must not happen, happened."""


class _Hangs(BaseException):
    """A case takes too long; no `except Exception` stops it."""


@dataclass
class Case:
    """A source, ready to be converted."""

    seed: int
    kind: str
    folder: Path
    files: Files
    options: dict[str, Any]


@dataclass
class Tally:
    """What came of many cases."""

    cases: Counter[str] = field(default_factory=Counter)
    """By kind of source."""
    errors: Counter[str] = field(default_factory=Counter)
    """Cases that ended with an error of ours, by its type."""
    records: Counter[str] = field(default_factory=Counter)
    """Those that were read: converted, quarantined, filtered."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Of quarantined records."""


def run_seed(seed: int, folder: Path, tally: Tally, kind: str | None = None) -> None:
    """Make the case of a seed, and convert it.

    Raises:
        Fault: as of `run_case`.
    """
    run_case(make_case(seed, folder, kind), tally)


def make_case(seed: int, folder: Path, kind: str | None = None) -> Case:
    """Write the source of a seed; the same seed gives the same."""
    kind = kind or Random(f"kind {seed}").choice(list(KINDS))
    random = Random(f"case {seed}")
    files = KINDS[kind](random)
    content = dict(files.content)
    if random.random() < 0.4:
        name = files.source if random.random() < 0.6 else random.choice(list(content))
        name = name if name in content else random.choice(list(content))
        if name.endswith((".tar", ".zip", ".parquet", ".arrow")) and random.random() < 0.6:
            # Anything moved, an archive is damaged as a whole, and no more is learned.
            content[name] = overwrite_bytes(content[name], random)
        else:
            content[name] = mutate_bytes(content[name], random, list(content.values()))
    if kind == "meta file":
        # What it names is opened, wherever it lies: nothing is to go out.
        content["meta.json"] = content["meta.json"].replace(b":/", b"_")
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "secret.jpg").write_bytes(SECRET)
    if (folder / "images").is_dir() and random.random() < 0.1:
        mutate_files(folder, [name for name in content if name.startswith("images/")], random)
    return Case(seed, kind, folder, files, {**_options(random), **files.options})


def _options(random: Random) -> dict[str, Any]:
    options: dict[str, Any] = {}
    rare: dict[str, tuple[Any, ...]] = {
        "layout": _LAYOUTS,
        "placeholder": ("insert",),
        "check": ("decode",),
        "shuffle": (0, 1),
        "split": ({"train": 0.5, "val": 0.5},),
        "shard_count": (1, 2),
        "limit": (1, 3),
        "pixel_limit": (100, 400),
        "resize": (4,),
        "reencode": ("webp:80",),
        "dedup": ("exact", "perceptual"),
        "filter": (["width >= 20"], ["turns < 3 or images == 0"], ["id != 'id-1'"]),
    }
    for name, values in rare.items():
        if random.random() < (0.3 if name in ("layout", "placeholder") else 0.08):
            options[name] = random.choice(values)
    if options.get("layout", "neva") == "neva" and random.random() < 0.05:
        options["check"] = "none"
    return options


def run_case(case: Case, tally: Tally) -> None:
    """Convert a case.

    Raises:
        Fault: it crashed, hung, lost a record, or read what it must not.
    """
    tally.cases[case.kind] += 1
    random = Random(f"run {case.seed}")
    try:
        with limited():
            for out, report in _convert(case):
                _judge(case, report, out)
                tally.records["converted"] += report.samples
                tally.records["quarantined"] += report.rejected
                tally.records["filtered"] += report.filtered
                tally.reasons.update(report.rejections)
                if report.samples and random.random() < 0.1:
                    _verify(out)
                if report.rejected and random.random() < 0.1:
                    _retry(case, out)
    except NevaPrepError as error:
        _judge_error(case, error)
        tally.errors[type(error).__name__] += 1


def _convert(case: Case) -> list[tuple[Path, ConvertReport]]:
    """The datasets that become of a case: one, or one for each source that a meta file names."""
    source, out = case.folder / case.files.source, case.folder / "out"
    options = ConvertOptions(**case.options)
    if case.kind == "meta file":
        several = convert_several(parts_of([source], [], []), out, options)
        return [(out / name, report) for name, report in several.reports.items()]
    images = None if case.files.images is None else case.folder / case.files.images
    return [(out, convert(source, images, out, options))]


def _judge(case: Case, report: ConvertReport, out: Path) -> None:
    """Every record is in the dataset, in the quarantine, or counted as filtered."""
    if report.records != report.samples + report.rejected + report.filtered:
        raise Fault(f"{report.records} records became {report}")
    kept = list(_keys(out))
    quarantine = (out / "quarantine.jsonl").read_bytes()
    rows = [json.loads(line) for line in quarantine.splitlines()]
    places = kept + [row["index"] for row in rows]
    if len(kept) != report.samples or len(rows) != report.rejected:
        raise Fault(f"{len(kept)} samples and {len(rows)} rows, the report says {report}")
    if len(set(places)) != len(places) or not set(places) <= set(range(report.records)):
        raise Fault(f"records in more than one place, or in none: {sorted(places)}")
    for row in rows:
        if row["reason"] not in REJECTIONS or not row["message"].endswith(row["fix"]):
            raise Fault(f"a row without reason or way out: {row}")
    expected = _count(case)
    if expected is not None and report.records != expected:
        raise Fault(f"the source has {expected} records, the report {report.records}")


def _keys(out: Path) -> Iterator[int]:
    for path in sorted(out.glob("*.tar")):
        content = path.read_bytes()
        if MARK in content:
            raise Fault("an image from outside the folder was read")
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                key, _, rest = name.partition(".")
                if rest == "json":
                    yield int(key)


def _count(case: Case) -> int | None:
    """Records of a source, told without the code under test; None where it cannot be told."""
    path = case.folder / case.files.source
    limit: int = case.options.get("limit", 1 << 60)
    known, content = case.files.records, case.files.content.get(case.files.source)
    if known is not None and (content is None or path.read_bytes() == content):
        return min(limit, known)
    if path.suffix not in (".json", ".jsonl") or case.kind in ("coco", "vqav2", "meta file"):
        return None
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
    try:
        value = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        if not case.files.is_lines or not data.startswith(b"{"):
            return None
        return min(limit, sum(1 for line in data.split(b"\n") if line.strip()))
    return min(limit, len(value)) if isinstance(value, list) else None


def _verify(out: Path) -> None:
    found = verify(out)
    if not found.is_whole:
        raise Fault(f"verify finds {found.findings}")


def _retry(case: Case, out: Path) -> None:
    before = len((out / "quarantine.jsonl").read_bytes().splitlines())
    try:
        report = retry(out / "quarantine.jsonl")
    except NevaPrepError as error:
        _judge_error(case, error)
        return
    if report.records != report.samples + report.rejected + report.filtered:
        raise Fault(f"after --retry: {report}")
    if report.rejected > before:
        raise Fault(f"--retry made {before} rejected records {report.rejected}")


def _judge_error(case: Case, error: NevaPrepError) -> None:
    """A message names the place, and a way out behind a semicolon."""
    message = str(error)
    stem = case.files.source.partition(".")[0]
    # A meta file names sources wherever they lie.
    places = (str(case.folder), stem, "--", "source 1 of", "source 2 of", *case.files.content)
    if ";" not in message or not any(place in message for place in places):
        raise Fault(f"{type(error).__name__} without a place or a way out: {message}")


@contextmanager
def limited() -> Iterator[None]:
    """A block that may take LIMIT_SECONDS.

    Raises:
        Fault: it took longer.
    """

    def stop(*_: Any) -> None:
        raise _Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    except _Hangs as error:
        raise Fault(f"takes more than {LIMIT_SECONDS:.0f} seconds") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    """Show a case and convert it."""
    seed, kind = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    case = make_case(seed, Path(f"fuzz-{seed}").absolute(), kind)
    print(case.kind, case.options, sorted(case.files.content), sep="\n")
    if (source := case.folder / case.files.source).is_file():
        print(source.read_bytes()[:3000])
    tally = Tally()
    run_case(case, tally)
    print(tally)


if __name__ == "__main__":
    main()
