"""Sides that differ by known edits, sources with faults, damaged datasets: diff, doctor, verify.

The long runs are those of benchmarks/fuzz.py --of.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fuzz_diff
import fuzz_doctor
import fuzz_verify
import pytest
from fuzz_case import Fault, Tally

from neva_prep.dataprep.doctor.diff import DiffReport, diff
from neva_prep.dataprep.doctor.doctor import doctor
from neva_prep.dataprep.doctor.report import DoctorReport
from neva_prep.dataprep.verify import VerifyReport, verify

TOOLS = {"diff": fuzz_diff, "doctor": fuzz_doctor, "verify": fuzz_verify}


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where there is such a place: each case syncs a dozen files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def run(tool: ModuleType, folder: Path, seeds: range) -> Tally:
    """Run cases; the first that fails is named."""
    tally = Tally()
    for seed in seeds:
        try:
            tool.run_seed(seed, folder / "case", tally)
        except Exception as error:
            told = f"python tests/{tool.__name__}.py {seed}: {type(error).__name__}: {error}"
            raise type(error)(told) if isinstance(error, Fault) else AssertionError(told) from error
    return tally


@pytest.mark.parametrize("name", TOOLS)
def test_what_was_edited_repaired_or_damaged_is_told(name: str, folder: Path) -> None:
    tally = run(TOOLS[name], folder, range(60))
    assert tally.cases.total() == 60 and tally.records.total() > 0


@pytest.mark.long
@pytest.mark.parametrize("name", TOOLS)
def test_so_it_is_in_many_more(name: str, folder: Path) -> None:
    run(TOOLS[name], folder, range(1_000_000, 1_000_500))


def seeing_less(*args: Any, **named: Any) -> DiffReport:
    report = diff(*args, **named)
    report.changed_in.pop("images", None)
    return report


def losing(*args: Any, **named: Any) -> DoctorReport:
    report = doctor(*args, **named)
    fixed = Path(named["fix"])
    if fixed.exists():
        fixed.write_bytes(fixed.read_bytes().replace(b"What", b"That", 1))
    return report


def trusting(path: Path) -> VerifyReport:
    report = verify(path)
    return VerifyReport(
        path=report.path, shards=report.shards, samples=0, images=0, turns=0, bytes=0,
        findings=(), found=0,
    )  # fmt: skip


def test_what_must_not_happen_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_diff, "diff", seeing_less)
    monkeypatch.setattr(fuzz_doctor, "doctor", losing)
    monkeypatch.setattr(fuzz_verify, "verify", trusting)
    for tool in TOOLS.values():
        with pytest.raises(Fault):
            run(tool, folder, range(40))
