"""Where a benchmark ran, and the file that its figures go to."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("neva-prep", "megatron-energon", "webdataset", "torch", "numpy", "pillow"),
    *("simplejpeg", "msgspec", "xxhash", "transformers"),
)


def describe() -> dict[str, Any]:
    """The machine and the versions of what runs on it."""
    return {
        "machine": {
            "cpu": _proc_value("/proc/cpuinfo", "model name") or platform.processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {"python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := _version(name))},
    }


def write_result(name: str, payload: dict[str, Any]) -> Path:
    """Write figures with the machine and versions they belong to, as `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(payload | describe(), indent=2) + "\n", encoding="utf-8")
    partial.rename(path)
    return path


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _proc_value(path: str, name: str) -> str:
    """The first value of that name in a `name : value` file, or nothing."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")
