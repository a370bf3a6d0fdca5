"""Statistics: how many records `neva-prep stats` counts in a second.

    python benchmarks/stats.py [--records 200000] [--repeats 3] [--tokenizer DIR]

Records are shaped like those of LLaVA's 665k mix; their images are thumbnails, since no image byte
is read here. Each run is the whole command, a process of its own, on a source file (a JSON array)
and on the dataset made from it. Records a second are what is left once starting is taken off: each
command also runs on a few records, and (all - few) / (time of all - time of few) counts. CPU time
is that of all processes. Both are medians of the repeats; the machine's load stands beside them.
The page cache is warm.

With `--tokenizer` the first tenth of the records is also tokenized, with template v1, and packed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from corpus import FOLDER, make_json, make_thumbnails
from machine import write_result
from measure import Usage, measure, peak_anonymous_bytes

FEW = 10
THUMBNAILS = 5000
WORKERS = (1, 2)
TARGET = 50_000
"""Records a second of two workers."""
NEVA_PREP = str(Path(sys.executable).with_name("neva-prep"))


def benchmark(records: int, repeats: int, tokenizer: Path | None, work: Path) -> dict[str, Any]:
    """Count the same records as a source and as a dataset."""
    name = f"llava-{records}-records-{THUMBNAILS}-images.json"
    source = make_json(FOLDER / name, records, THUMBNAILS)
    rows = json.loads(source.read_bytes())
    few = cut(rows[:FEW], work / "few.json")
    images = make_thumbnails(FOLDER / "thumbnails", THUMBNAILS)
    dataset, few_dataset = work / "dataset", work / "few-dataset"
    for given, out in ((source, dataset), (few, few_dataset)):
        measure([NEVA_PREP, "convert", str(given), "--images", str(images), "--out", str(out)])
    runs = {"source": (source, few, records), "dataset": (dataset, few_dataset, records)}
    figures = {
        f"{kind}, {workers} workers": figure(*run, ["--workers", str(workers)], repeats)
        for kind, run in runs.items()
        for workers in WORKERS
    }
    if tokenizer is not None:
        tenth = cut(rows[: records // 10], work / "tenth.json")
        options = ["--template", "v1", "--tokenizer", str(tokenizer), "--workers", "2"]
        figures["source with tokens, 2 workers"] = figure(
            tenth, few, records // 10, options, repeats
        )
    return figures


def cut(rows: list[Any], path: Path) -> Path:
    """Some records as a source."""
    path.write_text(json.dumps(rows))
    return path


def figure(path: Path, few: Path, records: int, options: list[str], repeats: int) -> dict[str, Any]:
    """Speed of one way of counting, and its memory."""
    command = [NEVA_PREP, "stats", str(path), *options, "--json"]
    start = [NEVA_PREP, "stats", str(few), *options, "--json"]
    found: list[tuple[Usage, Usage]] = [(measure(start), measure(command)) for _ in range(repeats)]

    counted = records - FEW
    wall = [all_.wall_seconds - few_.wall_seconds for few_, all_ in found]
    cpu = statistics.median(all_.cpu_seconds - few_.cpu_seconds for few_, all_ in found)
    return {
        "records": records,
        "records_per_second": counted / statistics.median(wall),
        "records_per_cpu_second": counted / cpu,
        "us_of_cpu_per_record": cpu / counted * 1e6,
        "seconds_of_whole_command": statistics.median(all_.wall_seconds for _, all_ in found),
        "peak_anonymous_mb": peak_anonymous_bytes(command) / 1e6,
    }


def judge(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each target, with whether it is met."""
    verdicts = {}
    for kind in ("source", "dataset"):
        value = figures[f"{kind}, 2 workers"]["records_per_second"]
        verdicts[f"{kind}_records_per_second"] = {
            "value": round(value),
            "target": f">= {TARGET}",
            "met": value >= TARGET,
        }
    return verdicts


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"stats: records counted, of {result['records']:,}")
    for heading in ("", "/s", "/CPU s", "µs CPU", "whole s", "MB"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, found in result["figures"].items():
        table.add_row(
            name,
            f"{found['records_per_second']:,.0f}",
            f"{found['records_per_cpu_second']:,.0f}",
            f"{found['us_of_cpu_per_record']:.1f}",
            f"{found['seconds_of_whole_command']:.2f}",
            f"{found['peak_anonymous_mb']:.0f}",
        )
    console.print(table)
    for name, verdict in result["targets"].items():
        mark = "[green]met[/green]" if verdict["met"] else "[red]missed[/red]"
        console.print(f"target {name} {verdict['target']}: {verdict['value']:,} {mark}")


def main() -> None:
    """Measure, print, write results/stats.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokenizer", type=Path, help="folder; tokens are not counted without")
    options = parser.parse_args()
    given = {name: value for name, value in vars(options).items() if name != "tokenizer"}
    result: dict[str, Any] = {"command": "python benchmarks/stats.py", **given}
    result["load_before"] = os.getloadavg()
    with tempfile.TemporaryDirectory(dir=FOLDER) as work:
        result["figures"] = benchmark(
            options.records, options.repeats, options.tokenizer, Path(work)
        )
    result["targets"] = judge(result["figures"])
    show(result)
    print(f"written: {write_result('stats', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
