"""Fuzzing: mutated sources of every kind of reader, each converted and judged.

    python benchmarks/fuzz.py [--cases 100000] [--first 0] [--processes 2] [--kind KIND]
                              [--of diff | doctor | verify]

A case is a source made of its seed: records of a form changed at random, put into one of the files
that they come in, bytes and images changed, converted with random options. It is at fault if
anything but a NevaPrepError ends it, if it takes more than a minute, if records are not samples,
quarantined or filtered, if a message has no place or no way out, or if a file outside the images is
read. tests/fuzz_case.py has the rules, and shows a case again: python tests/fuzz_case.py SEED.
With `--of` it is the command that compares, repairs or verifies that is judged, by the rules of
tests/fuzz_diff.py, fuzz_doctor.py or fuzz_verify.py.

Each process runs its share of the seeds and writes down which it is at; one that dies is a fault of
that seed, and another goes on behind it. The figures go to results/fuzz.json, fuzz_diff.json, ...
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from machine import write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

_MOST_FAULTS = 200
Found = dict[str, Any]


def main() -> None:
    """Run all cases, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kind")
    parser.add_argument("--of", choices=("diff", "doctor", "verify"))
    parser.add_argument("--share", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.share:
        seeds = range(given.first, given.first + given.cases, given.processes)
        run_share(seeds, given.of, given.kind, given.share)
        return
    found = run_all(given.first, given.cases, given.processes, given.of, given.kind)
    print(json.dumps(found, indent=2))
    if given.kind is None:
        name = f"fuzz_{given.of}" if given.of else "fuzz"
        print(write_result(name, found), file=sys.stderr)
    sys.exit(1 if found["faults"] else 0)


def run_all(first: int, cases: int, processes: int, of: str | None, kind: str | None) -> Found:
    """Run all cases in several processes, and add up what they found."""
    begin = time.perf_counter()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as root:
        shares = [
            (first + number, first + cases, processes, of, kind, Path(root, str(number)))
            for number in range(processes)
        ]
        with ThreadPoolExecutor(processes) as pool:
            parts = [
                part for parts in pool.map(lambda share: _watch(*share), shares) for part in parts
            ]
    counted: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part["counts"].items():
            counted.setdefault(name, Counter()).update(counts)
    faults = [fault for part in parts for fault in part["faults"]]
    return {
        "cases": sum(counted.get("cases", {}).values()),
        "first_seed": first,
        "faults": faults[:_MOST_FAULTS],
        "found": len(faults),
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(sum(part["cpu_seconds"] for part in parts), 1),
        "slowest_seconds": max(part["slowest"] for part in parts),
        "peak_mb": max(part["peak_mb"] for part in parts),
        **{name: dict(counts.most_common()) for name, counts in counted.items()},
    }


def _watch(
    start: int, stop: int, step: int, of: str | None, kind: str | None, folder: Path
) -> list[Found]:
    """Run a share in a process; where it dies, note the seed and go on behind it."""
    folder.mkdir()
    found: list[Found] = []
    while start < stop:
        command = [sys.executable, __file__, "--first", str(start), "--cases", str(stop - start)]
        command += ["--processes", str(step), "--share", str(folder)]
        command += ["--kind", kind] if kind else []
        command += ["--of", of] if of else []
        environment = {**os.environ, "TMPDIR": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        place, result = folder / "seed", folder / "result.json"
        if result.exists():
            found.append(json.loads(result.read_text()))
            result.unlink()
        if done.returncode == 0:
            break
        if not place.exists():
            raise SystemExit(done.stderr)
        seed = int(place.read_text())
        found[-1]["faults"].append(
            [seed, f"the process died with {done.returncode}", done.stderr[-2000:]]
        )
        start = seed + step
    return found


def run_share(seeds: range, of: str | None, kind: str | None, folder: Path) -> None:
    """Run cases one after the other; what they found so far is in a file, whenever this ends."""
    from fuzz_case import Tally

    run_seed = importlib.import_module(f"fuzz_{of or 'case'}").run_seed
    faulthandler.enable()
    tally, faults, slowest = Tally(), [], 0.0
    for number, seed in enumerate(seeds):
        (folder / "seed").write_text(str(seed))
        begin = time.perf_counter()
        try:
            run_seed(seed, folder / "case", tally, kind)
        except Exception as error:
            faults.append([seed, f"{type(error).__name__}: {error}"[:600], _where(error)])
        slowest = max(slowest, time.perf_counter() - begin)
        if number % 200 == 0 or number == len(seeds) - 1:
            _write(folder, tally, faults, slowest)


def _where(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _write(folder: Path, tally: Any, faults: list[Any], slowest: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "counts": vars(tally),
        "faults": faults,
        "slowest": round(slowest, 2),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": round(usage.ru_maxrss / 1024),
    }
    partial = folder / "result.tmp"
    partial.write_text(json.dumps(found))
    partial.rename(folder / "result.json")


if __name__ == "__main__":
    main()
