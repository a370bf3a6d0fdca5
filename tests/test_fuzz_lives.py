"""Datasets of random sources and options, converted in every way, killed, resumed and retried."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_lives import Fault, live


@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.long)])
def test_every_way_to_a_dataset_ends_with_the_same(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + (100 if first else 6)):
        try:
            live(seed, tmp_path / str(seed))
        except Exception as error:
            raise Fault(f"seed {seed}: {error}") from error
