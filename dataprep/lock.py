"""The lock of a folder, held by one process alone or by several together, on any machine."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ShardError
from .files import has_name, told

_WAIT_SECONDS = 5.0


class FolderLock:
    """A lock file in a folder; free once it is closed and every child of its process has gone."""

    def __init__(self, path: Path) -> None:
        """Make the file; nothing is held yet.

        Raises:
            ShardError: the disk refuses.
        """
        self.path = path
        self.is_shared = False
        with told(path.parent):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def hold(self, *, shared: bool, patient: Callable[[], bool] = lambda: False) -> None:
        """Take the lock; what was held of it before is given up first.

        Args:
            shared: whether others may hold it like that too.
            patient: asked while another has it, whether to wait for as long as it takes.

        Raises:
            ShardError: another conversion holds it, or has come to its end meanwhile.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        out = self.path.parent.parent
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
                break
            except OSError as error:
                if patient():
                    deadline = time.monotonic() + _WAIT_SECONDS
                if time.monotonic() > deadline:
                    self.close()
                    raise ShardError(
                        f"{out}: another conversion is writing here; wait for it"
                    ) from error
                time.sleep(0.05)
        self.is_shared = shared
        if not has_name(self._fd, self.path):
            self.close()
            raise ShardError(
                f"{out}: another conversion came to its end here just now; see with neva-prep "
                "verify whether the dataset is whole"
            )

    def close(self) -> None:
        """Give it up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
