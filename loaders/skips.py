"""The failure policy: bad samples are skipped and counted, too many of them are an error.

In a worker, a Tally notes what was skipped and what came through; each batch carries the note since
the one before to the main process, where a SkipCounter adds up, logs and judges. So the counts are
those of the batches that training has seen, with any number of workers and after any resume.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, NevaPrepError, RecordError

logger = logging.getLogger(__name__)

DEFAULT_MAX_SKIP_RATIO = 0.01
_FEWEST = 16
"""Samples that must fail in a row before nothing is said to come through."""
_ROUNDING = 1e-9
"""0.29 x 100 is a little less than 29."""


@dataclass(slots=True)
class Note:
    """What happened between two batches of a worker."""

    delivered: int = 0
    """Samples in the batch."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason -> samples that were left out."""
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> message of the first such sample."""
    events: Counter[str] = field(default_factory=Counter)
    """Reason -> how often delivered samples were cut, shortened or escaped."""


class Tally:
    """Takes notes in a worker, and stops it where nothing comes through."""

    def __init__(self, patience: int = _FEWEST) -> None:
        """Begin with empty notes.

        Args:
            patience: samples in a row that may fail at one stage; an epoch of this worker.
        """
        self._patience = max(patience, _FEWEST)
        self._note = Note()
        self._row: Counter[str] = Counter()

    def skip(self, error: NevaPrepError, stage: str, origin: str = "") -> None:
        """Note a sample that is left out.

        Args:
            error: why.
            stage: where on its way.
            origin: the dataset that it is of, as keys are unique in one only.

        Raises:
            RecordError: nothing came through this stage for as long as an epoch.
        """
        reason = error.reason or type(error).__name__
        self._note.skipped[reason] += 1
        message = str(error)
        if origin not in message:
            message = f"{origin}: {message}"
        self._note.examples.setdefault(reason, message)
        self._row[stage] += 1
        if self._row[stage] >= self._patience:
            raise RecordError(
                f"no sample comes through: {self._row[stage]} in a row were skipped, the last one "
                f"because: {message}"
            )

    def passed(self, stage: str) -> None:
        """Note that a sample came through a stage."""
        self._row[stage] = 0

    def deliver(self, events: Mapping[str, int]) -> None:
        """Note a sample that is in the next batch."""
        self._note.delivered += 1
        self._note.events.update(events)

    def drain(self) -> Note:
        """The note for a batch; the next one begins empty."""
        note, self._note = self._note, Note()
        return note


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipReport:
    """What became of the samples that a loader has read."""

    delivered: int
    """Samples that came in batches."""
    skipped: dict[str, int]
    """Reason -> samples that were left out."""
    examples: dict[str, str]
    """Reason -> message of the first such sample."""
    events: dict[str, int]
    """Reason -> how often delivered samples were cut, shortened or escaped."""

    @property
    def num_skipped(self) -> int:
        """Samples that were left out, for whatever reason."""
        return sum(self.skipped.values())

    @property
    def ratio(self) -> float:
        """Share of the samples that were left out."""
        seen = self.delivered + self.num_skipped
        return self.num_skipped / seen if seen else 0.0


class SkipCounter:
    """Adds up notes in the main process; logs each reason once and refuses too many skips."""

    def __init__(self, *, name: str, max_ratio: float, epoch_samples: int) -> None:
        """Begin at zero.

        Args:
            name: of the dataset, for messages.
            max_ratio: share of the samples that may be skipped.
            epoch_samples: of this rank; the share is of this many until more were seen, so that one
                bad sample at the start is judged as one of an epoch.
        """
        check_max_skip_ratio(max_ratio)
        self._name = name
        self._max_ratio = max_ratio
        self._epoch_samples = epoch_samples
        self._total = Note()

    def add(self, note: Note) -> None:
        """Add the note of a batch.

        Raises:
            RecordError: more samples are skipped than `max_ratio` lets pass.
        """
        for reason, message in note.examples.items():
            if reason not in self._total.examples:
                self._total.examples[reason] = message
                logger.warning(
                    "skipped: %s (reason %s; further ones are only counted)", message, reason
                )
        self._total.delivered += note.delivered
        self._total.skipped.update(note.skipped)
        self._total.events.update(note.events)
        report = self.report()
        seen = report.delivered + report.num_skipped
        if report.num_skipped > self._max_ratio * max(seen, self._epoch_samples) + _ROUNDING:
            raise RecordError(
                f"{self._name}: {report.num_skipped} of {seen} samples were skipped, more than "
                f"max_skip_ratio={self._max_ratio:g} of {max(seen, self._epoch_samples)}: "
                f"{_list(report)}; repair the dataset (neva-prep verify) or raise max_skip_ratio"
            )

    def check_end(self) -> None:
        """Judge a stream that has ended.

        Raises:
            RecordError: it ended without a single sample.
        """
        if not self._total.delivered:
            raise RecordError(
                f"{self._name}: no sample came through, all were skipped: "
                f"{_list(self.report()) or 'none was read'}; repair the dataset (neva-prep verify)"
            )

    def report(self) -> SkipReport:
        """The counts until now."""
        total = self._total
        return SkipReport(
            delivered=total.delivered,
            skipped=dict(total.skipped),
            examples=dict(total.examples),
            events=dict(total.events),
        )

    @staticmethod
    def empty_report() -> SkipReport:
        """The report of a stream that has not begun."""
        return SkipReport(delivered=0, skipped={}, examples={}, events={})

    def state_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        report = self.report()
        return {name: getattr(report, name) for name in SkipReport.__slots__}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the counts of `state_dict`."""
        self._total = Note(
            delivered=state["delivered"],
            skipped=Counter(state["skipped"]),
            examples=dict(state["examples"]),
            events=Counter(state["events"]),
        )


def check_max_skip_ratio(ratio: float) -> None:
    """Refuse what is no share with a ConfigError."""
    if not 0.0 <= ratio <= 1.0:
        raise ConfigError(
            f"max_skip_ratio={ratio}: is the share of samples that may be skipped, 0 to 1"
        )


def _list(report: SkipReport) -> str:
    reasons = sorted(report.skipped, key=lambda reason: -report.skipped[reason])
    return "; ".join(
        f"{reason} {report.skipped[reason]}, for example {report.examples[reason]}"
        for reason in reasons
    )
