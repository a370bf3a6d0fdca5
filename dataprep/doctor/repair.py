"""Repairing one record: edit after edit, until convert would take it or no edit helps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from ...errors import NevaPrepError
from ...loaders.image_folder import ImageFolder
from ..options import ConvertOptions
from ..readers.form import ReadRecord
from ..splice import Edit, apply
from .edits import edits_for
from .fault import first_fault
from .find_images import ImageFinder

_MAX_ROUNDS = 12
_AROUND = 60
_END = re.compile(r'[^"]*$')
_BEGIN = re.compile(r'(?:[^"\\]|\\.)*')


class Change(NamedTuple):
    """One edit that was made, for the diff."""

    kind: str
    where: str
    old: str
    """JSON before, with the text around it where that is in a longer text."""
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What became of a record that convert would reject."""

    raw: bytes
    """The record with all edits made."""
    is_whole: bool
    """Whether convert would take it now; if not, the record is better left as it was."""
    changes: tuple[Change, ...]
    faults: tuple[NevaPrepError, ...]
    """What was wrong, in the order in which it was found; the last one remains if not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repairer:
    """What repairing needs to know."""

    read: ReadRecord
    """Reads a record of the source's form."""
    folder: ImageFolder
    finder: ImageFinder
    options: ConvertOptions
    remove_surplus: bool = False

    def repair(self, raw: bytes) -> Repair:
        """Repair a record, or find out what no mechanical edit repairs."""
        faults: list[NevaPrepError] = []
        changes: list[Change] = []
        while fault := first_fault(raw, self.read, self.folder, self.options):
            stuck = fault.reason in (known.reason for known in faults)
            faults.append(fault)
            edits = [] if stuck or len(faults) > _MAX_ROUNDS else self._edits(fault, raw)
            if not edits:
                return Repair(raw=raw, is_whole=False, changes=tuple(changes), faults=tuple(faults))
            text = raw.decode()
            changes += (_change(text, edit) for edit in edits)
            raw = apply(text, edits).encode()
        return Repair(raw=raw, is_whole=True, changes=tuple(changes), faults=tuple(faults))

    def _edits(self, fault: NevaPrepError, raw: bytes) -> list[Edit]:
        try:
            return edits_for(
                fault, raw, self.folder, self.finder, remove_surplus=self.remove_surplus
            )
        except (ValueError, RecursionError, LookupError, TypeError):
            # A record of a shape that no edit knows.
            return []


def _change(text: str, edit: Edit) -> Change:
    # Of a long text only what stands beside the change, and nothing of other fields.
    around = _AROUND if edit.kind.startswith("placeholder") else 0
    before = _END.search(text[max(0, edit.start - around) : edit.start])
    after = _BEGIN.match(text[edit.stop : edit.stop + around])
    left, right = before[0] if before else "", after[0] if after else ""
    old = text[edit.start : edit.stop]
    return Change(edit.kind, edit.where, left + old + right, left + edit.new + right)
