"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from .plain_text import plain_text
from .watch import Watch

_REFRESH_SECONDS = 0.1
_STAGES = {
    "choose": "Choosing",
    "plan": "Planning",
    "write": "Writing",
    "check": "Checking",
    "finish": "Finishing",
}


def stderr_console() -> Console:
    """A console on a descriptor of its own: stderr itself is silenced while images are decoded."""
    return Console(file=os.fdopen(os.dup(2), "w", buffering=1), highlight=False)


class _Bar:
    """Starts and stops what rich draws."""

    _progress: Progress

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class ProgressBar(_Bar, Watch):
    """Shows records, rate, time left and rejections.

    It refreshes from the calling thread: a thread of its own would make forking workers unsafe.
    """

    def __init__(self, console: Console, *, dry_run: bool = False) -> None:
        self._dry_run = dry_run
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} records"),
            _Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("[yellow]{task.fields[rejected]}[/]"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, rejected="", written=0)
        self._shown = 0.0

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(Text(plain_text(text), "dim"), soft_wrap=True)

    def begin(self, stage: str, records: int | None) -> None:
        """Start the bar anew for a stage."""
        name = _STAGES["check" if stage == "write" and self._dry_run else stage]
        self._progress.reset(
            self._task, total=records, description=name, rejected="", written=0, completed=0
        )
        self._progress.refresh()

    def update(self, records: int, written: int, rejected: int) -> None:
        """Show the state, ten times a second at most."""
        now = time.monotonic()
        if now - self._shown < _REFRESH_SECONDS:
            return
        self._shown = now
        told = f"{rejected:,} rejected" if rejected else ""
        self._progress.update(self._task, completed=records, written=written, rejected=told)
        self._progress.refresh()


class BytesBar(_Bar):
    """Shows how many bytes of how many are read."""

    def __init__(self, console: Console, what: str) -> None:
        self._progress = Progress(
            TextColumn(what),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def update(self, done: int, total: int) -> None:
        """So many bytes of so many are read."""
        self._progress.update(self._task, completed=done, total=total)
        self._progress.refresh()


class _Rate(TextColumn):
    """Bytes written a second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """The rate, or nothing before the first byte."""
        written, seconds = task.fields.get("written", 0), task.elapsed or 0
        if not written or not seconds:
            return Text("")
        return Text(f"{written / seconds / 1e6:,.0f} MB/s", style="progress.data.speed")
