"""The web viewer on many samples: how soon its pages come, and how much memory it takes.

    python benchmarks/viewer.py [--samples 100000] [--repeats 5]

A dataset of so many conversations, with tiny images, is converted once. Then the viewer is started
as a process of its own, again and again; each time:

- start: from starting Python to the whole first page, imports included, while the catalogue is
  being filled in the background.
- first page: the same page, from the request alone.
- catalogue: until all samples are noted.
- search, filter, far page, sample, thumbnail: one request each, on the whole catalogue.
- memory: the most that the process ever had in RAM (VmHWM), after 2,000 thumbnails as well.

Medians of all repeats. There is no tokenizer: one would take its own memory and that of torch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

IMAGES = 5000
THUMBNAILS = 2000
TARGETS = {"start": 1.0, "peak_rss_mb": 300.0}
CHILD = """
import sys
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.viewer.serve import serve
serve(open_looked(sys.argv[1]))
"""


def make_dataset(samples: int) -> Path:
    """A converted dataset of so many samples; one that is there already is used again."""
    from corpus import FOLDER, make_json, make_thumbnails

    from neva_prep.dataprep.convert import convert
    from neva_prep.dataprep.options import ConvertOptions

    out = FOLDER / f"shards-{samples}"
    if not (out / "neva-prep.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        images = make_thumbnails(FOLDER / "thumbnails", IMAGES)
        source = make_json(FOLDER / f"llava-{samples}-records.json", samples, IMAGES)
        convert(source, images, out, ConvertOptions(split={"train": 0.99, "val": 0.01}))
    return out


def run(dataset: Path, samples: int) -> dict[str, float]:
    """Start the viewer, look around, and stop it."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(dataset)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        first = seconds(url)
        found = {"start": time.perf_counter() - begin, "first_page": first}
        while not json.loads(get(f"{url}progress"))["done"]:
            time.sleep(0.05)
        found["catalogue"] = time.perf_counter() - begin
        found["search"] = seconds(f"{url}?q=kitchen+table")
        found["filter"] = seconds(f"{url}?images=0&turns=7-&sort=chars")
        found["far_page"] = seconds(f"{url}?page={samples // 60 - 1}")
        found["sample"] = seconds(f"{url}sample/{samples // 2}")
        found["thumbnail"] = seconds(f"{url}image/{samples // 2 + 1}/0?edge=320")
        for index in range(0, samples, max(1, samples // THUMBNAILS)):
            with suppress(urllib.error.HTTPError):  # A sample of text alone has none.
                get(f"{url}image/{index}/0?edge=320")
        found["peak_rss_mb"] = peak_rss_bytes(process.pid) / 1e6
        return found
    finally:
        process.terminate()
        process.wait()


def seconds(url: str) -> float:
    """How long a request takes."""
    start = time.perf_counter()
    try:
        get(url)
    except urllib.error.HTTPError as error:
        error.read()
    return time.perf_counter() - start


def get(url: str) -> bytes:
    """The whole answer."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def peak_rss_bytes(pid: int) -> int:
    """Most memory that a process ever had in RAM, files that it maps included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Measure, print, write results/viewer.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    from machine import write_result

    dataset = make_dataset(options.samples)
    runs = [run(dataset, options.samples) for _ in range(options.repeats)]
    figures = {name: statistics.median(one[name] for one in runs) for name in runs[0]}
    targets = {
        name: {
            "value": round(figures[name], 3),
            "target": f"< {limit:g}",
            "met": figures[name] < limit,
        }
        for name, limit in TARGETS.items()
    }
    for name, value in figures.items():
        unit = "MB" if name.endswith("_mb") else "s"
        print(f"{name:12} {value:8.3f} {unit}")
    for name, verdict in targets.items():
        print(f"target {name} {verdict['target']}: {'met' if verdict['met'] else 'missed'}")
    result = {
        "command": "python benchmarks/viewer.py",
        "samples": options.samples,
        "repeats": options.repeats,
        "figures": figures,
        "targets": targets,
        "runs": runs,
    }
    print(f"written: {write_result('viewer', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
