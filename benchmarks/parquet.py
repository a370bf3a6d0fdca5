"""Parquet with images to shards: ours beside `datasets.map` and webdataset's writer.

    python benchmarks/parquet.py [--images 2000] [--repeats 5]

The table is written by `datasets`, as tables of its hub are: an image column, 100 rows a row group.

- neva-prep: `neva-prep convert --workers 1`, checks, hashes, index and fsync included.
- datasets + webdataset: `Dataset.from_parquet`, `map` to LLaVA's form, `ShardWriter`; images are
  passed on as bytes (`decode=False`), nothing is encoded anew, and no index is made. Its shards are
  synced to the disk in the end, as ours are.

Each run is a process of its own whose CPU time (user + system, its children included) the kernel
tells when it ends; the cache of `datasets` is new each time. The two alternate; medians of all
repeats count. *Marginal* figures are what a record costs once a program has started: each program
also runs on the first few rows alone, and (all - few) / (rows - few) leaves out starting Python and
its imports.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import Usage, measure, peak_anonymous_bytes

FEW = 100
"""Rows of the short run that is subtracted: one row group."""
SHARD_BYTES = 1_000_000_000
TARGETS = {"marginal_cpu": 5.0, "marginal_wall": 5.0}
BIN = Path(sys.executable).parent


def run_peer(source: str, out: str) -> None:
    """The usual way: load, map each row to a record, write samples with webdataset."""
    import datasets
    import webdataset

    datasets.disable_progress_bars()
    table = datasets.Dataset.from_parquet(source, cache_dir=f"{out}/cache")
    table = table.cast_column("image", datasets.Image(decode=False))

    def to_llava(row: dict[str, Any]) -> dict[str, Any]:
        asked, answer = f"<image>\n{row['question']}", row["answer"]
        talk = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        return {"conversations": talk}

    table = table.map(to_llava, remove_columns=["question", "answer"])
    with webdataset.ShardWriter(
        f"{out}/train-%06d.tar", maxcount=100_000, maxsize=SHARD_BYTES, verbose=0
    ) as shards:
        for number, row in enumerate(table):
            record = {"id": row["id"], "image": row["image"]["path"]}
            record["conversations"] = row["conversations"]
            sample = {"__key__": f"{number:09d}", "json": record, "jpg": row["image"]["bytes"]}
            shards.write(sample)
    for shard in Path(out).glob("*.tar"):
        with shard.open("rb") as file:
            os.fsync(file.fileno())


def write_table(path: Path, folder: Path, images: int) -> Path:
    """The corpus's images with a question and an answer each, as `datasets` writes a table."""
    import datasets
    from corpus import image_name

    datasets.disable_progress_bars()
    text = datasets.Value("string")

    def rows() -> Any:
        for number in range(images):
            name = image_name(number)
            yield {
                "id": f"{number:012d}",
                "image": {"bytes": (folder / name).read_bytes(), "path": Path(name).name},
                "question": f"What is to be seen on picture {number}?",
                "answer": f"A picture that has the number {number}, and many words beside it.",
            }

    with tempfile.TemporaryDirectory() as cache:
        shape = datasets.Features(id=text, image=datasets.Image(), question=text, answer=text)
        datasets.Dataset.from_generator(rows, features=shape, cache_dir=cache).to_parquet(path)
    return path


def commands(source: Path, out: Path) -> dict[str, list[str]]:
    """The command of each program."""
    ours = [str(BIN / "neva-prep"), "convert", str(source), "--out", str(out / "shards")]
    return {
        "neva_prep": [*ours, "--workers", "1", "--quiet"],
        "peer": [sys.executable, __file__, "--child", str(source), str(out)],
    }


def alternate(
    sources: dict[str, Path], repeats: int, scratch: Path
) -> dict[str, dict[str, list[Usage]]]:
    """Usage of each program on each source, the programs in turn: program -> source -> runs."""
    runs: dict[str, dict[str, list[Usage]]] = {}
    for repeat in range(repeats):
        for size, source in sources.items():
            for name in commands(source, scratch):
                out = scratch / f"{name}-{size}"
                out.mkdir()
                usage = measure(commands(source, out)[name])
                runs.setdefault(name, {}).setdefault(size, []).append(usage)
                shutil.rmtree(out)
        print(f"repeat {repeat + 1} of {repeats} done", file=sys.stderr)
    return runs


def figures(runs: dict[str, list[Usage]], images: int) -> dict[str, float]:
    """Medians of one program, and what one more record costs it."""
    found = {}
    for kind in ("cpu", "wall"):
        every = [getattr(usage, f"{kind}_seconds") for usage in runs["all"]]
        few = [getattr(usage, f"{kind}_seconds") for usage in runs["few"]]
        whole, short = statistics.median(every), statistics.median(few)
        found[f"{kind}_seconds"] = whole
        found[f"few_{kind}_seconds"] = short
        found[f"marginal_{kind}_us_per_record"] = (whole - short) / (images - FEW) * 1e6
    return found


def benchmark(images: int, repeats: int) -> dict[str, Any]:
    """Time both programs on a table of so many images."""
    from corpus import make_corpus

    corpus = make_corpus(images=images)
    with tempfile.TemporaryDirectory(dir=corpus.folder, prefix="run-") as name:
        scratch = Path(name)
        sources = {
            "all": write_table(scratch / "all.parquet", corpus.folder, images),
            "few": write_table(scratch / "few.parquet", corpus.folder, FEW),
        }
        os.sync()
        runs = alternate(sources, repeats, scratch)
        peak = peak_anonymous_bytes(commands(sources["all"], scratch / "peak")["neva_prep"])
    found = {name: figures(runs[name], images) for name in runs}
    ours, peer = found["neva_prep"], found["peer"]
    ratios = {
        f"{what}_{kind}": peer[key] / ours[key]
        for kind in ("cpu", "wall")
        for what, key in (
            ("marginal", f"marginal_{kind}_us_per_record"),
            ("total", f"{kind}_seconds"),
        )
    }
    return {
        "corpus": {
            "images": images,
            "mean_image_kb": round(corpus.image_bytes / corpus.images / 1000, 1),
        },
        "figures": found,
        "peer_over_neva_prep": ratios,
        "peak_anonymous_mb": round(peak / 1e6, 1),
        "targets": {
            name: {"value": round(ratios[name], 2), "target": f">= {limit:g}",
                   "met": ratios[name] >= limit}
            for name, limit in TARGETS.items()
        },
        "runs": {
            f"{name}/{size}": [asdict(usage) for usage in usages]
            for name, sizes in runs.items()
            for size, usages in sizes.items()
        },
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    corpus, console = result["corpus"], Console()
    title = f"{corpus['images']:,} images, mean {corpus['mean_image_kb']} kB"
    table = Table(title=f"Parquet to shards: {title}, medians of {result['repeats']} runs")
    for heading in ("", "CPU s", "wall s", "CPU µs/record", "wall µs/record"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, found in result["figures"].items():
        table.add_row(
            name,
            f"{found['cpu_seconds']:.2f}",
            f"{found['wall_seconds']:.2f}",
            f"{found['marginal_cpu_us_per_record']:.0f}",
            f"{found['marginal_wall_us_per_record']:.0f}",
        )
    console.print(table)
    for name, value in result["peer_over_neva_prep"].items():
        console.print(f"peer / neva-prep, {name}: [bold]{value:.2f}[/bold]")
    console.print(f"peak anonymous memory of neva-prep: {result['peak_anonymous_mb']} MB")
    for name, verdict in result["targets"].items():
        mark = "[green]met[/green]" if verdict["met"] else "[red]missed[/red]"
        console.print(f"target {name} {verdict['target']}: {verdict['value']} {mark}")


def main() -> None:
    """Measure, print, write results/parquet.json."""
    if sys.argv[1:2] == ["--child"]:
        run_peer(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    from machine import write_result

    result: dict[str, Any] = {"command": "python benchmarks/parquet.py", **vars(options)}
    result |= benchmark(options.images, options.repeats)
    show(result)
    print(f"written: {write_result('parquet', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
