"""What a run says of itself: lines on the terminal, a row a step in train.jsonl, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

LOG_FILE = "train.jsonl"
BOARD_FOLDER = "tensorboard"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step, over all ranks."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    """Positions of samples, image embeddings included."""
    trained_tokens: int
    positions: int
    """What was computed, padding included."""
    fill: float
    """Share of the rows that samples fill; of packs, of their full size."""
    seconds: float
    data_wait: float
    """Share of the time that was spent waiting for data."""
    memory_bytes: int
    """Most that rank 0 has held: on its GPU, else in its process."""
    mfu: float | None
    """Share of the GPU's peak; None where that is not known."""
    keys: list[str]
    """Of the samples of all ranks; `neva-prep trace` finds them."""
    origins: list[str]
    """Their datasets."""

    def to_dict(self) -> dict[str, Any]:
        """For the log; of samples of one dataset, its name comes once."""
        names = [name for name in self.__slots__ if name not in ("keys", "origins")]
        content = {name: getattr(self, name) for name in names}
        one = len(set(self.origins)) == 1
        return content | {
            "__keys__": self.keys,
            "__origins__": self.origins[0] if one else self.origins,
        }

    def line(self, max_steps: int) -> str:
        """For a terminal."""
        parts = [
            f"step {self.step:,}/{max_steps:,}",
            f"loss {self.loss:.4f}",
            f"lr {self.lr:.2e}",
            f"grad {self.grad_norm:.2f}",
            f"{self.positions / self.seconds:,.0f} tokens/s",
            f"{self.tokens / self.seconds:,.0f} useful",
            f"fill {self.fill:.0%}",
            f"waited {self.data_wait:.0%}",
            f"{self.memory_bytes / 1e9:.1f} GB",
        ]
        if self.mfu is not None:
            parts.insert(6, f"MFU {self.mfu:.0%}")
        return "  ".join(parts)


class RunLog:
    """Writes of rank 0; the other ranks keep silent."""

    def __init__(
        self,
        run: Path,
        *,
        writes: bool,
        from_step: int,
        max_steps: int,
        every: int,
        stream: TextIO | None = None,
    ) -> None:
        """Open the log; rows behind the step that the run goes on from are taken out.

        Args:
            run: folder of the run.
            writes: whether this is rank 0.
            from_step: the last step that counts.
            max_steps: of the whole run.
            every: steps between lines on the terminal.
            stream: the terminal; stderr unless given.
        """
        self._writes, self._every, self._max_steps = writes, every, max_steps
        self._stream = stream or sys.stderr
        self._file: TextIO | None = None
        self._board: Any = None
        if writes:
            run.mkdir(parents=True, exist_ok=True)
            cut_log(run / LOG_FILE, from_step)
            self._file = (run / LOG_FILE).open("a", encoding="utf-8")
            self._board = _open_board(run / BOARD_FOLDER, from_step)

    def say(self, text: str) -> None:
        """A line on the terminal."""
        if self._writes:
            print(text, file=self._stream, flush=True)

    def step(self, row: StepRow) -> None:
        """A step of training."""
        self._write(row.to_dict())
        for name in ("loss", "lr", "grad_norm", "fill", "data_wait", "mfu"):
            self._plot(f"train/{name}", getattr(row, name), row.step)
        self._plot("train/tokens_per_second", row.tokens / row.seconds, row.step)
        if row.step % self._every == 0 or row.step in (1, self._max_steps):
            self.say(row.line(self._max_steps))

    def validation(self, step: int, loss: float, trained_tokens: int) -> None:
        """A pass of validation, after a step."""
        # Its own name for the step: `trace --step` looks for training's rows alone.
        self._write({"val_step": step, "val_loss": loss, "trained_tokens": trained_tokens})
        self._plot("val/loss", loss, step)
        self.say(f"step {step:,}  validation loss {loss:.4f} on {trained_tokens:,} tokens")

    def close(self) -> None:
        """Close files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(_plain(row), allow_nan=False) + "\n")
            self._file.flush()

    def _plot(self, name: str, value: float | None, step: int) -> None:
        if self._board is not None and value is not None:
            self._board.add_scalar(name, value, step)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: the loss of a step that trained no token is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def read_log(run: Path) -> list[dict[str, Any]]:
    """Rows of training steps, in their order."""
    rows = [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]
    return [row for row in rows if "step" in row]


def cut_log(path: Path, last_step: int) -> None:
    """Take out what was logged behind a step: a run that goes on there makes those steps again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # A line that was being written when the run was killed.
        if row.get("step", row.get("val_step", 0)) <= last_step:
            kept.append(line + "\n")
    part = path.with_name(path.name + ".tmp")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(path)


def _open_board(folder: Path, from_step: int) -> Any:
    """A TensorBoard writer, where it is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=from_step + 1)
