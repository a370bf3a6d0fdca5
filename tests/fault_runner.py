"""Runs `neva-prep` commands in forked processes, each with its own fault from faults.c.

Started with that library preloaded. Reads one JSON task a line and answers with one line. A fork
has all modules loaded, so that a run takes milliseconds and hundreds of faults can be tried.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys

from neva_prep.cli import COMMANDS, main
from neva_prep.dataprep import tar_writer

LOADED_BEFORE = ("convert", "retry", "progress", "show_report")


def run(arguments: list[str], output: str) -> None:
    """Become the command; never returns."""
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(fd, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["neva-prep", *arguments]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Answer tasks until the input ends."""
    importlib.import_module(f"neva_prep.{COMMANDS['convert'][0].split(':')[0]}")
    for name in LOADED_BEFORE:
        importlib.import_module(f"neva_prep.dataprep.{name}")
    tar_writer.BUFFER_BYTES = (
        64 << 10
    )  # Zeroing megabytes for a few kilobytes takes a third of a run.
    gc.freeze()
    library = ctypes.CDLL(None)
    library.faults_log.restype = ctypes.c_char_p
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            library.faults_arm(task["root"].encode(), task["at"], task["kind"], task["sticky"])
            run(task["arguments"], task["output"])
        _, status = os.waitpid(child, 0)
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "calls": library.faults_log().decode().splitlines() if task["log"] else [],
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
