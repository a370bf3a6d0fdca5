"""Converting: ours beside the bare copy of the same bytes and beside the usual way.

    python benchmarks/convert.py [--images 5000] [--repeats 5] [--records 665000]

- sendfile: the limit, nothing but copying the images into files of 1 GB.
- neva-prep: `neva-prep convert --workers 1`, checks, hashes, index and fsync included.
- webdataset + energon: json.load, ShardWriter, then `energon prepare`.

Each run is a process of its own whose CPU time (user + system, its children included) the kernel
tells when it ends. The three alternate; medians of all repeats count. *Marginal* CPU is what an
image costs once a program has started: each program also runs on the first few records alone, and
(all - few) / (images - few) leaves out starting Python and its imports. Marginal time of day is
computed alike. The page cache is warm. With fewer than some thousand images the difference is lost
in the noise of starting.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import Usage, measure, peak_anonymous_bytes

FEW = 10
"""Records of the short run that is subtracted."""
SHARD_BYTES = 1_000_000_000
TARGETS = {
    "neva_prep_over_sendfile_marginal_cpu": ("<=", 1.4),
    "peer_over_neva_prep_marginal_cpu": (">=", 7.0),
    "peak_anonymous_mb": ("<", 300.0),
}
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the programs are given."""

    source: Path
    paths: Path
    """Image paths of the source, one a line."""
    folder: Path
    """Image folder."""


def run_sendfile(paths: str, out: str, *flags: str) -> None:
    """Copy files one after another into files of 1 GB, in the kernel."""
    shard, room = -1, 0
    number = 0
    for path in Path(paths).read_text().splitlines():
        file = os.open(path, os.O_RDONLY)
        size = os.fstat(file).st_size
        if size > room:
            _close(shard, flags)
            shard = os.open(f"{out}/{number:06d}.bin", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            number, room = number + 1, SHARD_BYTES
        room -= size
        done = 0
        while done < size:
            done += os.sendfile(shard, file, done, size - done)
        os.close(file)
    _close(shard, flags)


def _close(shard: int, flags: Iterable[str]) -> None:
    if shard >= 0:
        if "fsync" in flags:
            os.fsync(shard)
        os.close(shard)


def run_peer(source: str, folder: str, out: str) -> None:
    """The usual way: read all, write samples with webdataset, index them with energon."""
    import webdataset

    with open(source, encoding="utf-8") as file:
        records = json.load(file)
    pattern = f"{out}/train-%06d.tar"
    with webdataset.ShardWriter(
        pattern, maxcount=100_000, maxsize=SHARD_BYTES, verbose=0
    ) as shards:
        for number, record in enumerate(records):
            sample = {"__key__": f"{number:09d}", "json": record}
            if "image" in record:
                sample["jpg"] = Path(folder, record["image"]).read_bytes()
            shards.write(sample)
    # One worker: more of them only add CPU time, and there is one shard to index.
    command = [str(BIN / "energon"), "prepare", out, "--non-interactive", "--split-ratio", "1,0,0"]
    command += ["--sample-type", "CrudeWebdataset", "--no-progress", "--num-workers", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


CHILDREN: dict[str, Callable[..., None]] = {"sendfile": run_sendfile, "peer": run_peer}


def commands(task: Task, out: Path) -> dict[str, list[str]]:
    """The command of each program."""
    child = [sys.executable, __file__, "--child"]
    return {
        "sendfile": [*child, "sendfile", str(task.paths), str(out)],
        "sendfile_fsync": [*child, "sendfile", str(task.paths), str(out), "fsync"],
        "neva_prep": convert_command(task, out / "shards"),
        "peer": [*child, "peer", str(task.source), str(task.folder), str(out)],
    }


def convert_command(task: Task, out: Path, *flags: str) -> list[str]:
    """`neva-prep convert` as a user calls it."""
    command = [str(BIN / "neva-prep"), "convert", str(task.source), "--images", str(task.folder)]
    return [*command, "--out", str(out), "--workers", "1", "--quiet", *flags]


def alternate(tasks: dict[str, Task], repeats: int, scratch: Path) -> dict[str, list[Usage]]:
    """Usage of every program on every task, the programs in turn; keys are `program/task`."""
    runs: dict[str, list[Usage]] = {}
    for repeat in range(repeats):
        for size, task in tasks.items():
            for name in commands(task, scratch):
                out = scratch / f"{name}-{size}"
                out.mkdir()
                runs.setdefault(f"{name}/{size}", []).append(measure(commands(task, out)[name]))
                shutil.rmtree(out)
        print(f"repeat {repeat + 1} of {repeats} done", file=sys.stderr)
    return runs


def figures(runs: dict[str, list[Usage]], images: int) -> dict[str, dict[str, float]]:
    """Medians of each program, and what one more image costs it."""

    def median(run: str, field: str) -> float:
        return float(statistics.median(getattr(usage, field) for usage in runs[run]))

    found = {}
    for name in dict.fromkeys(run.split("/")[0] for run in runs):
        cpu, few_cpu = median(f"{name}/all", "cpu_seconds"), median(f"{name}/few", "cpu_seconds")
        wall, few_wall = (
            median(f"{name}/all", "wall_seconds"),
            median(f"{name}/few", "wall_seconds"),
        )
        found[name] = {
            "cpu_seconds": cpu,
            "few_cpu_seconds": few_cpu,
            "marginal_cpu_us_per_image": (cpu - few_cpu) / (images - FEW) * 1e6,
            "wall_seconds": wall,
            "few_wall_seconds": few_wall,
            "marginal_wall_us_per_image": (wall - few_wall) / (images - FEW) * 1e6,
        }
    return found


def ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """How programs compare; above 1 the first one is slower."""
    ours, limit, peer = found["neva_prep"], found["sendfile"], found["peer"]
    synced = found["sendfile_fsync"]
    return {
        "neva_prep_over_sendfile_marginal_cpu": _over(ours, limit, "marginal_cpu_us_per_image"),
        "neva_prep_over_sendfile_fsync_marginal_cpu": _over(
            ours, synced, "marginal_cpu_us_per_image"
        ),
        "peer_over_neva_prep_marginal_cpu": _over(peer, ours, "marginal_cpu_us_per_image"),
        "peer_over_neva_prep_total_cpu": _over(peer, ours, "cpu_seconds"),
        "peer_over_neva_prep_total_wall": _over(peer, ours, "wall_seconds"),
    }


def _over(one: dict[str, float], other: dict[str, float], key: str) -> float:
    return one[key] / other[key]


def judge(values: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Each value that has a target, with whether it is met."""
    tests = {"<=": float.__le__, ">=": float.__ge__, "<": float.__lt__}
    return {
        name: {
            "value": round(values[name], 3),
            "target": f"{sign} {limit:g}",
            "met": tests[sign](values[name], limit),
        }
        for name, (sign, limit) in TARGETS.items()
        if name in values
    }


def benchmark(images: int, repeats: int) -> dict[str, Any]:
    """Time the three programs on a corpus of so many images."""
    from corpus import make_corpus

    corpus = make_corpus(images=images)
    with tempfile.TemporaryDirectory(dir=corpus.folder, prefix="run-") as scratch:
        tasks = make_tasks(corpus.source, corpus.folder, Path(scratch))
        for path in tasks["all"].paths.read_text().splitlines():
            Path(path).read_bytes()
        corpus.source.read_bytes()
        runs = alternate(tasks, repeats, Path(scratch))
    found = figures(runs, images)
    return {
        "corpus": {
            "images": images,
            "records": corpus.records,
            "mean_image_kb": round(corpus.image_bytes / images / 1000, 1),
        },
        "figures": found,
        "ratios": ratios(found),
        "runs": {name: [asdict(usage) for usage in usages] for name, usages in runs.items()},
    }


def make_tasks(source: Path, folder: Path, scratch: Path) -> dict[str, Task]:
    """The whole source, and its first few records that have an image."""
    records = [record for record in json.loads(source.read_text()) if "image" in record]
    few = scratch / "few.json"
    few.write_text(json.dumps(records[:FEW]))
    tasks = {}
    for name, path, part in (("all", source, records), ("few", few, records[:FEW])):
        paths = scratch / f"{name}.txt"
        paths.write_text("".join(f"{folder / record['image']}\n" for record in part))
        tasks[name] = Task(source=path, paths=paths, folder=folder)
    return tasks


def memory(records: int, images: int) -> dict[str, Any]:
    """Peak memory of `neva-prep convert` on a source of so many records with tiny images."""
    from corpus import FOLDER, make_json, make_thumbnails

    folder = make_thumbnails(FOLDER / "thumbnails", images)
    source = make_json(FOLDER / f"llava-{records}-records-{images}-images.json", records, images)
    task = Task(source=source, paths=source, folder=folder)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="run-") as scratch:
        out = Path(scratch, "shards")
        peaks = {
            "dry_run": peak_anonymous_bytes(convert_command(task, out, "--dry-run")) / 1e6,
            "convert": peak_anonymous_bytes(convert_command(task, out)) / 1e6,
        }
    return {
        "records": records,
        "source_mb": round(source.stat().st_size / 1e6),
        "peak_anonymous_mb": {name: round(peak, 1) for name, peak in peaks.items()},
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures as tables."""
    from rich.console import Console
    from rich.table import Table

    corpus, console = result["corpus"], Console()
    title = f"{corpus['images']:,} images, mean {corpus['mean_image_kb']} kB"
    table = Table(title=f"convert: {title}, medians of {result['repeats']} runs")
    for heading in ("", "CPU s", "wall s", "CPU µs/image", "wall µs/image", "CPU × limit"):
        table.add_column(heading, justify="left" if not heading else "right")
    limit = result["figures"]["sendfile"]["marginal_cpu_us_per_image"]
    for name, found in result["figures"].items():
        table.add_row(
            name,
            f"{found['cpu_seconds']:.2f}",
            f"{found['wall_seconds']:.2f}",
            f"{found['marginal_cpu_us_per_image']:.1f}",
            f"{found['marginal_wall_us_per_image']:.1f}",
            f"{found['marginal_cpu_us_per_image'] / limit:.2f}",
        )
    console.print(table)
    console.print("µs/image: without starting Python and its imports (see --help)")
    for name, value in result["ratios"].items():
        console.print(f"{name}: [bold]{value:.2f}[/bold]")
    if "memory" in result:
        peaks = result["memory"]["peak_anonymous_mb"]
        console.print(f"peak memory at {result['memory']['records']:,} records, MB: {peaks}")
    for name, verdict in result["targets"].items():
        mark = "[green]met[/green]" if verdict["met"] else "[red]missed[/red]"
        console.print(f"target {name} {verdict['target']}: {verdict['value']} {mark}")


def main() -> None:
    """Measure, print, write results/convert.json."""
    if sys.argv[1:2] == ["--child"]:
        CHILDREN[sys.argv[2]](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--records", type=int, default=665_000, help="for memory; 0 leaves it out")
    options = parser.parse_args()
    from machine import write_result

    result: dict[str, Any] = {"command": "python benchmarks/convert.py", **vars(options)}
    result |= benchmark(options.images, options.repeats)
    values = dict(result["ratios"])
    if options.records:
        result["memory"] = memory(options.records, options.images)
        values["peak_anonymous_mb"] = max(result["memory"]["peak_anonymous_mb"].values())
    result["targets"] = judge(values)
    show(result)
    print(f"written: {write_result('convert', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
