"""Fills README.md with what the commands really print, and with measured figures."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOUR = (
    "neva-prep convert shapes.json --images images --out shards --split train=0.9,val=0.1",
    "neva-prep verify shards",
    "neva-prep inspect shards --index 0",
)
NAMES = {
    "sendfile": "limit: bare copy of the images (sendfile)",
    "sendfile_fsync": "the same, with fsync",
    "neva_prep": "neva-prep: checked, hashed, indexed, synced",
    "peer": "webdataset `ShardWriter` + `energon prepare`",
}


def tour() -> str:
    """The commands of the tour with their output."""
    from neva_prep.dataprep.demo import draw_demo

    with tempfile.TemporaryDirectory() as folder:
        draw_demo(Path(folder))
        return "\n".join(f"    $ {line}\n{indent(printed(line, folder))}" for line in TOUR)


def printed(line: str, folder: str) -> str:
    """What a command prints in a folder, without that folder's own path."""
    command = [str(Path(sys.executable).with_name("neva-prep")), *shlex.split(line)[1:]]
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    if done.returncode not in (0, 4):
        raise SystemExit(f"{line}: {done.stderr}")
    return (done.stdout + done.stderr).replace(f"{os.path.realpath(folder)}/", "")


def indent(text: str) -> str:
    """Text as a Markdown code block, without blank lines at its ends."""
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    text = re.sub(r"\n\n\n+", "\n\n", "\n".join(lines))
    return "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())


def speed() -> str:
    """The figures of benchmarks/results/convert.json as a table."""
    path = ROOT / "benchmarks" / "results" / "convert.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text())
    corpus, figures = result["corpus"], result["figures"]
    limit = figures["sendfile"]["marginal_cpu_us_per_image"]
    lines = [
        f"Converting {corpus['images']:,} images of {corpus['mean_image_kb']:.0f} kB, one worker, "
        f"medians of {result['repeats']} runs (`{result['command']}`):",
        "",
        "| | CPU s | wall s | CPU per image | × the limit |",
        "|---|---|---|---|---|",
    ]
    for name, found in figures.items():
        each = found["marginal_cpu_us_per_image"]
        lines.append(
            f"| {NAMES.get(name, name)} | {found['cpu_seconds']:.2f} | "
            f"{found['wall_seconds']:.2f} | {each:.0f} µs | {each / limit:.2f} |"
        )
    peak = max(result["memory"]["peak_anonymous_mb"].values())
    lines += ["", f"Memory at {result['memory']['records']:,} records: {peak:.0f} MB."]
    return "\n".join(lines) + "\n"


def fill(text: str, mark: str, content: str) -> str:
    """Put content between a mark's two comments."""
    pattern = re.compile(rf"(<!-- {mark}: [^>]*-->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n{match[2]}", text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(fill(readme.read_text(), "tour", tour()), "speed", speed()))
