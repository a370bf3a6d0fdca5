"""Mutated sources of every kind: no crash, no hang, every record accounted for.

A failing case is shown with `python tests/fuzz_case.py SEED KIND`. The long run is
benchmarks/fuzz.py.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_case
import pytest
from fuzz_case import SECRET, Fault, Tally, make_case, run_case
from fuzz_kinds import KINDS

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.report import ConvertReport
from neva_prep.errors import ConfigError


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where there is such a place: each case syncs a dozen files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def run(folder: Path, seeds: range, kind: str | None = None) -> Tally:
    """Run cases; the first that fails is named."""
    tally = Tally()
    for seed in seeds:
        case = make_case(seed, folder / "case", kind)
        try:
            run_case(case, tally)
        except Exception as error:
            told = f"python tests/fuzz_case.py {seed} {case.kind!r}: {type(error).__name__}: "
            raise AssertionError(f"{told}{error}") from error
    return tally


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_sources_are_converted_or_refused(kind: str, folder: Path) -> None:
    tally = run(folder, range(25), kind)
    assert tally.cases[kind] == 25 and sum(tally.records.values()) > 0


@pytest.mark.long
def test_many_more_are_too(folder: Path) -> None:
    """The same for everyone: seeds that nobody has seen are for benchmarks/fuzz.py --first."""
    run(folder, range(1_000_000, 1_005_000))


def test_a_seed_gives_the_same_source(folder: Path) -> None:
    for seed in range(30):
        one, two = make_case(seed, folder / "one"), make_case(seed, folder / "two")
        assert (one.kind, one.options, one.files) == (two.kind, two.options, two.files)


def losing(*args: Any, **named: Any) -> ConvertReport:
    report = convert(*args, **named)
    report.samples -= report.samples > 0
    return report


def inventing(*args: Any, **named: Any) -> ConvertReport:
    report = convert(*args, **named)
    report.records += 1
    report.filtered += 1
    return report


def leaking(*args: Any, **named: Any) -> ConvertReport:
    report = convert(*args, **named)
    (Path(args[2]) / "extra.tar").write_bytes(SECRET)
    return report


def hanging(*_: Any, **__: Any) -> None:
    time.sleep(30)


def mumbling(*_: Any, **__: Any) -> None:
    raise ConfigError("something is wrong")


BROKEN: dict[Callable[..., Any], str] = {
    losing: "records became",
    inventing: "the source has",
    leaking: "outside the folder",
    hanging: "takes more than",
    mumbling: "without a place or a way out",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_must_not_happen_is_seen(
    broken: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_case, "convert", broken)
    monkeypatch.setattr(fuzz_case, "LIMIT_SECONDS", 0.5)
    with pytest.raises(Fault, match=BROKEN[broken]):
        for seed in range(50):
            run_case(make_case(seed, folder / "case", "llava"), Tally())
