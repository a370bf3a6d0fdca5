"""Work that is killed midway, in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

_KILLED = 77
_STEPS = ("replace", "rename", "unlink", "fsync")


def run_killed(step: int, work: Callable[[], object]) -> bool:
    """Do something in a process that dies at its Nth call that changes the disk's names.

    Returns:
        Whether it died; if not, it came to its end.
    """
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            _die_at(step, work, said.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        if code not in (0, _KILLED):
            raise RuntimeError(f"ended with {code}: {said.read().decode()}")
    return code == _KILLED


def _die_at(step: int, work: Callable[[], object], said: int) -> None:
    left = step

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os._exit(_KILLED)
            return call(*arguments, **named)

        return instead

    try:
        for name in _STEPS:
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    except BaseException as error:
        os.write(said, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
