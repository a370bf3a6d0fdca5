"""What a command takes: CPU time, time of day and memory, as the kernel counts them."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one run took."""

    cpu_seconds: float
    wall_seconds: float


def measure(command: list[str]) -> Usage:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    # What earlier runs left to write back would be written during this one.
    os.sync()
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=said, env=_environment()
        )
        # Of the process and of the children that it has waited for.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command} failed: {said.read().decode(errors='replace')[-2000:]}")
    return Usage(cpu_seconds=usage.ru_utime + usage.ru_stime, wall_seconds=wall)


def _environment() -> dict[str, str]:
    """Lets Python keep bytecode: of what pip installed it is there, of a checkout after a run."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def peak_anonymous_bytes(command: list[str], *, every_seconds: float = 0.01) -> int:
    """Most anonymous memory that a command and its descendants held together, as sampled.

    Files that are mapped, such as the source, are not in it: the kernel drops them at will.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_anonymous_bytes(pid) for pid in _family(process.pid)))
        time.sleep(every_seconds)
    if process.returncode:
        assert process.stderr is not None
        raise RuntimeError(f"{command} failed: {process.stderr.read().decode()[-2000:]}")
    return peak


def _family(pid: int) -> Iterator[int]:
    yield pid
    found: list[str] = []
    # A process may end while it is listed.
    with suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += children.read_text().split()
    for child in found:
        yield from _family(int(child))


def _anonymous_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
