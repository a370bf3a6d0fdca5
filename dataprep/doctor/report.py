"""What the doctor found, and what a fix did."""

from __future__ import annotations

from typing import Any

import msgspec

from ..quarantine import Rejected
from ..readers.open import CONTAINERS
from ..readers.recognize import Recognized
from ..reasons import REJECTIONS
from ..report import ConvertReport
from .image_roots import Guess

SCHEMA_VERSION = 1
EXAMPLES_PER_REASON = 3
ADVICE_PER_REASON = 8
"""Different texts; what does not fit is counted under the reason alone."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One of the records that have a fault."""

    index: int
    """Of the record in the source, from 0."""
    line: int | None
    byte: int | None
    id: str | int | float | None
    message: str


class Fault(msgspec.Struct, kw_only=True):
    """All records that convert would reject for one reason."""

    reason: str
    """Code, as docs/reasons.md lists them."""
    records: int = 0
    fix: str
    """What fixes it."""
    repairable: int = 0
    """Records that --fix makes convertible."""
    advice: dict[str, int] = {}
    """What more is to be said -> of how many records."""
    examples: list[Example] = []


class Fixed(msgspec.Struct, kw_only=True):
    """What --fix wrote."""

    out: str
    diff: str
    repaired: int = 0
    """Records that convert takes now."""
    left: int = 0
    """Records that stand there as they were, and are still rejected."""
    edits: dict[str, int] = {}
    """Kind of edit -> how many were made."""
    rejections: dict[str, int] = {}
    """Reason -> records, of a dry run of what was written."""


class DoctorReport(msgspec.Struct, kw_only=True):
    """What the doctor found."""

    source: str
    images: str
    form: Recognized
    readable: bool = True
    """Whether the source can be read as a whole."""
    error: str = ""
    """Why not."""
    ways_out: list[str] = []
    """Of the source as a whole, of --images, and options of convert that help."""
    sources: list[str] = []
    """Of a meta file those that it names; nothing of them is looked at."""
    records: int = 0
    wrong: int = 0
    """Records that convert would reject."""
    repairable: int = 0
    """Of these, those that --fix makes convertible."""
    faults: list[Fault] = []
    """Most frequent first."""
    behind: dict[str, int] = {}
    """Reason -> records that have this fault behind another one that an edit takes away."""
    edits: dict[str, int] = {}
    """Kind of edit -> how many would repair the repairable records."""
    repairs: dict[str, int] = {}
    """What convert repairs by itself."""
    warnings: dict[str, int] = {}
    warning_examples: dict[str, list[str]] = {}
    guesses: list[Guess] = []
    """Folders that have missing images."""
    fixed: Fixed | None = None

    @property
    def is_json(self) -> bool:
        """Whether it is made of JSON records, which --fix can repair."""
        return self.form.name not in CONTAINERS

    @property
    def exit_code(self) -> int:
        """0 nothing wrong (with --fix: in what was written), 3 unreadable, 4 records are wrong."""
        if not self.readable:
            return 3
        return 4 if (self.fixed.left if self.fixed else self.wrong) else 0

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        fields = msgspec.to_builtins(self)
        return {"schema_version": SCHEMA_VERSION, "exit_code": self.exit_code, **fields}

    def take_over(self, found: ConvertReport) -> None:
        """Take what a dry run says of the whole source."""
        self.records = found.records
        self.repairs = found.repairs
        self.warnings = found.warnings
        self.warning_examples = found.warning_examples

    def count(self, rejected: Rejected) -> Fault:
        """Count a record that convert would reject; the row of its reason."""
        fault = self.fault(rejected.reason)
        self.wrong += 1
        fault.records += 1
        if len(fault.examples) < EXAMPLES_PER_REASON:
            fault.examples.append(
                Example(
                    index=rejected.index,
                    line=rejected.line,
                    byte=rejected.byte,
                    id=rejected.id,
                    message=rejected.message,
                )
            )
        return fault

    def fault(self, reason: str) -> Fault:
        """The row of a reason, made where it is not there."""
        for fault in self.faults:
            if fault.reason == reason:
                return fault
        self.faults.append(Fault(reason=reason, fix=REJECTIONS[reason]))
        return self.faults[-1]
