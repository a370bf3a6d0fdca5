"""Choosing packs: nothing is lost, packs are full, nobody waits long."""

from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neva_prep.errors import ConfigError, PackError
from neva_prep.loaders.packer import Packer

PACK_LENGTH = 64
MAX_TILES = 5


@st.composite
def waiting(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Lengths and tiles of some samples, all of which fit a pack of PACK_LENGTH and MAX_TILES."""
    shape = draw(st.sampled_from([(1, 64), (1, 8), (20, 40), (60, 64)]))
    lengths = draw(st.lists(st.integers(*shape), max_size=80))
    tiles = st.lists(st.integers(0, MAX_TILES), min_size=len(lengths), max_size=len(lengths))
    return lengths, draw(tiles)


def packers(**fixed: Any) -> st.SearchStrategy[Packer]:
    return st.builds(
        Packer,
        pack_length=st.just(PACK_LENGTH),
        max_tiles=st.sampled_from([None, MAX_TILES]),
        lookahead=st.sampled_from([1, 7, 1024]),
        **fixed,
    )


@given(waiting(), packers(), st.integers(0, 30))
def test_every_sample_is_in_one_pack_or_stays_behind(
    samples: tuple[list[int], list[int]], packer: Packer, keep: int
) -> None:
    lengths, tiles = samples
    packs, rest = packer.select(range(len(lengths)), lengths, tiles=tiles, keep=keep)
    assert sorted([*rest, *(place for pack in packs for place in pack)]) == [*range(len(lengths))]
    assert rest == sorted(rest)
    assert all(packs)
    assert len(rest) <= keep
    assert not packs or len(rest) + len(packs[-1]) > keep


@given(waiting(), packers())
def test_no_pack_is_over_length_or_over_its_tiles(
    samples: tuple[list[int], list[int]], packer: Packer
) -> None:
    lengths, tiles = samples
    for pack in packer.choose(lengths, tiles=tiles):
        assert sum(lengths[place] for place in pack) <= PACK_LENGTH
        if packer.max_tiles is not None:
            assert sum(tiles[place] for place in pack) <= MAX_TILES


@given(waiting(), packers())
def test_a_pack_ends_only_when_no_waiting_sample_of_the_lookahead_fits(
    samples: tuple[list[int], list[int]], packer: Packer
) -> None:
    lengths, tiles = samples
    left = list(range(len(lengths)))
    for pack in packer.choose(lengths, tiles=tiles):
        near = left[: packer.lookahead]
        assert pack[0] == left[0]
        assert set(pack) <= set(near)
        room = PACK_LENGTH - sum(lengths[place] for place in pack)
        budget = (packer.max_tiles or 10**9) - sum(tiles[place] for place in pack)
        fitting = {p for p in near if lengths[p] <= room and tiles[p] <= budget}
        assert not fitting - set(pack)
        left = [place for place in left if place not in pack]


@given(waiting(), packers())
def test_a_sample_leaves_within_as_many_packs_as_are_before_it(
    samples: tuple[list[int], list[int]], packer: Packer
) -> None:
    lengths, tiles = samples
    for number, pack in enumerate(packer.choose(lengths, tiles=tiles)):
        assert all(number <= place for place in pack)


@given(waiting(), packers())
def test_packs_depend_on_lengths_alone(
    samples: tuple[list[int], list[int]], packer: Packer
) -> None:
    lengths, tiles = samples
    assert packer.choose(lengths, tiles=tiles) == packer.choose(tuple(lengths), tiles=[*tiles])


@given(waiting(), st.integers(1, 9), st.lists(st.integers(0, 20), max_size=20))
def test_packs_do_not_depend_on_how_samples_come_in_buffers(
    samples: tuple[list[int], list[int]], lookahead: int, buffers: list[int]
) -> None:
    """As long as a lookahead of samples is kept waiting."""
    lengths, _ = samples
    packer = Packer(pack_length=PACK_LENGTH, lookahead=lookahead)
    at_once, _ = packer.select(range(len(lengths)), lengths, keep=lookahead)

    packs: list[list[int]] = []
    held: list[int] = []
    source = iter(range(len(lengths)))
    for size in [*buffers, len(lengths)]:
        held += islice(source, size)
        new, held = packer.select(held, [lengths[place] for place in held], keep=lookahead)
        packs += new
    assert packs == at_once


@pytest.mark.parametrize(
    ("lengths", "first"),
    [
        ([60, 30, 40, 25], [60, 40]),  # One is exact.
        ([60, 25, 30, 15], [60, 25, 15]),  # Two, neither of them the longest.
        ([60, 30, 25, 14], [60, 25, 14]),  # Nothing is exact: 99 is nearer than 90.
        ([60, 29, 15, 20, 13, 12], [60, 15, 13, 12]),  # Three; two make at most 35.
        ([60, 30, 13, 12, 11, 4], [60, 13, 12, 11, 4]),  # Four.
    ],
)
def test_a_pack_is_finished_by_those_that_fill_it_best(
    lengths: list[int], first: list[int]
) -> None:
    """The oldest begins, and no next one follows: room for the finish is left."""
    packs = Packer(pack_length=100).choose(lengths)
    assert [lengths[place] for place in packs[0]] == first


@pytest.mark.parametrize(("pack_length", "full"), [(4096, 0.98), (8192, 0.999)])
def test_packs_of_samples_with_an_image_are_nearly_full(pack_length: int, full: float) -> None:
    random = Random(0)
    lengths = [620 + int(random.expovariate(1 / 200)) for _ in range(3000)]
    packs = Packer(pack_length=pack_length).choose(lengths, keep=1024)
    positions = sum(lengths[place] for pack in packs for place in pack)
    assert positions / len(packs) / pack_length >= full


def test_a_sample_that_needs_most_of_the_tiles_left_is_still_packed_with_others() -> None:
    packs = Packer(pack_length=100, max_tiles=4).choose([50, 20, 20], tiles=[1, 3, 2])
    assert packs == [[0, 1], [2]]


def test_tiles_do_not_matter_without_a_cap() -> None:
    assert Packer(pack_length=100).choose([50, 50], tiles=[1000, 1000]) == [[0, 1]]


@pytest.mark.parametrize(
    ("length", "tiles", "reason", "named"),
    [
        (65, 0, "too_long_for_pack", ("key-7", "65", "64")),
        (0, 0, "too_long_for_pack", ("key-7", "0 positions")),
        (64, 6, "too_many_tiles_for_pack", ("key-7", "6 tiles", "5")),
    ],
)
def test_a_sample_that_fits_no_pack_is_an_error_that_names_it(
    length: int, tiles: int, reason: str, named: tuple[str, ...]
) -> None:
    packer = Packer(pack_length=64, max_tiles=5)
    with pytest.raises(PackError) as caught:
        packer.check("key-7", length, tiles)
    assert caught.value.reason == reason
    assert all(word in str(caught.value) for word in named)
    with pytest.raises(PackError, match="at place 1"):
        packer.choose([64, length], tiles=[5, tiles])


def test_the_longest_sample_allowed_fits() -> None:
    packer = Packer(pack_length=64, max_tiles=5)
    packer.check("key-7", 64, 5)
    assert packer.choose([64, 64], tiles=[5, 5]) == [[0], [1]]


def test_nothing_waits_nothing_is_packed() -> None:
    assert Packer(pack_length=64).choose([]) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"pack_length": 0},
        {"pack_length": -1},
        {"pack_length": 64, "lookahead": 0},
        {"pack_length": 64, "max_tiles": 0},
    ],
)
def test_settings_under_which_nothing_fits_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="would fit"):
        Packer(**settings)
