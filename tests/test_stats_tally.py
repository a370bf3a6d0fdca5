"""Tallies are exact within their bound, and say how far off they are beyond it."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neva_prep.dataprep.stats.result import QUANTILES, spread_of
from neva_prep.dataprep.stats.scripts import SCRIPTS, count_letters
from neva_prep.dataprep.stats.tally import Tally

PARTS = st.lists(st.lists(st.integers(0, 40)), max_size=6)
LARGE = st.integers(0, 2**64 - 1)


def tally_of(parts: list[list[int]], limit: int = 1 << 20) -> Tally:
    """Each part is counted for itself, then all are merged."""
    whole = Tally(limit)
    for part in parts:
        one = Tally(limit)
        one.add(part)
        whole.merge(one.compacted())
        whole.compacted()
    return whole


def counted(tally: Tally) -> dict[int, int]:
    return dict(zip(tally.numbers.tolist(), tally.counts.tolist(), strict=True))


@given(PARTS)
def test_parts_add_up_to_the_whole(parts: list[list[int]]) -> None:
    tally = tally_of(parts)
    expected = Counter(number for part in parts for number in part)
    assert counted(tally) == expected
    assert tally.is_exact and tally.total == expected.total()


@given(PARTS, st.integers(1, 12))
def test_beyond_the_bound_counts_are_too_low_by_the_error_at_most(
    parts: list[list[int]], limit: int
) -> None:
    tally = tally_of(parts, limit)
    expected = Counter(number for part in parts for number in part)
    found = counted(tally)
    assert len(found) <= limit
    for number, count in expected.items():
        assert count - tally.error <= found.get(number, 0) <= count
    assert tally.total == expected.total()
    assert tally.error * (limit // 2 + 1) <= tally.total


def test_giving_up_again_and_again_costs_no_more_than_its_share() -> None:
    tally = tally_of([[1] * 10, *([[2] * 5, [3]] * 20)], limit=2)
    assert 0 < tally.error * 2 <= tally.total == 130


@given(st.lists(LARGE, min_size=1))
def test_a_number_comes_with_the_first_of_its_places(numbers: list[int]) -> None:
    tally = Tally()
    for place, number in enumerate(numbers, start=7):
        tally.add([number], [place])
    ranked = tally.most_frequent(len(numbers))
    assert {number: count for number, count, _ in ranked} == Counter(numbers)
    assert all(place == numbers.index(number) + 7 for number, _, place in ranked)
    assert [count for _, count, _ in ranked] == sorted(Counter(numbers).values(), reverse=True)


@given(st.lists(st.one_of(st.integers(0, 30), st.integers(0, 10**12)), min_size=1))
def test_a_spread_is_that_of_the_sorted_numbers(numbers: list[int]) -> None:
    tally = Tally()
    tally.add(numbers)
    spread = spread_of(tally)
    assert spread is not None and spread.is_exact
    ordered = sorted(numbers)
    assert (spread.min, spread.max, spread.total) == (ordered[0], ordered[-1], sum(ordered))
    for name, share in QUANTILES.items():
        assert spread.quantiles[name] == ordered[int(np.ceil(share * len(ordered))) - 1]
    assert [bar.stop for bar in spread.bars[:-1]] == [bar.start for bar in spread.bars[1:]]
    for bar in spread.bars:
        assert bar.count == sum(bar.start <= number < bar.stop for number in numbers)
    assert sum(bar.count for bar in spread.bars) == len(numbers) and len(spread.bars) <= 26


def test_nothing_has_no_spread() -> None:
    assert spread_of(Tally()) is None


def test_scripts_of_all_widths_and_planes() -> None:
    texts = ["ＡＢｱ", "𠮷野家", "Ωμέγα µ", "naïve 2×", "😀 12", "שלום ไทย"]
    found = [{SCRIPTS[k]: int(n) for k, n in enumerate(row) if n} for row in count_letters(texts)]
    assert found == [
        {"Latin": 2, "Kana": 1},
        {"Han": 3},
        {"Greek": 5, "other": 1},
        {"Latin": 5},
        {},
        {"Hebrew": 4, "Thai": 3},
    ]
