"""Rows and packs: what a model makes of them is what it would make of each sample alone."""

import doctest
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from encoded_samples import IGNORE, IMAGE, encoded, encoded_samples, expand, expand_then_shift
from hypothesis import given
from hypothesis import strategies as st

import neva_prep.loaders.encoded
import neva_prep.loaders.pack
import neva_prep.loaders.packer
from neva_prep.errors import ConfigError, ImageError, PackError, RecordError
from neva_prep.loaders.encoded import EncodedSample, RowConfig, length
from neva_prep.loaders.pack import Pack, build_pack, make_row
from neva_prep.loaders.packer import Packer

PAD = 0
CONFIG = RowConfig(pad_id=PAD, num_image_embeddings_per_tile=3, alignment=4)

configs = st.builds(
    RowConfig,
    pad_id=st.just(PAD),
    num_image_embeddings_per_tile=st.integers(1, 5),
    alignment=st.sampled_from([1, 2, 4, 8]),
)
some_samples = st.lists(encoded_samples(), min_size=1, max_size=6)


def segments(pack: Pack, config: RowConfig) -> list[list[tuple[int, int, int]]]:
    """What a model makes of the pack, cut at its padded bounds."""
    row = pack.row
    sizes = (pack.num_tiles * config.num_image_embeddings_per_tile).tolist()
    whole = expand(row.tokens.tolist(), row.labels.tolist(), row.position_ids.tolist(), sizes)
    bounds = pack.cu_seqlens_padded.tolist()
    assert len(whole) == bounds[-1]
    return [whole[start:end] for start, end in pairwise(bounds)]


def test_a_pack_by_hand() -> None:
    picture = encoded("picture", [1, IMAGE, 7, 8, 2], [IGNORE, IGNORE, IGNORE, 8, 2], color=9)
    text = encoded("text", [1, 5, 6, 2, 2, 2])
    pack = build_pack([picture, text], CONFIG)
    # Expanded: 1 I I I 7 8 . . | 1 5 6 2 2 . . .
    assert pack.row.tokens.tolist() == [1, IMAGE, 7, 8, PAD, PAD, 1, 5, 6, 2, 2, PAD, PAD, PAD]
    ignored = [IGNORE] * 2
    assert pack.row.labels.tolist() == [*ignored, 8, 2, *ignored, 5, 6, 2, 2, 2, IGNORE, *ignored]
    assert pack.row.position_ids.tolist() == [0, 1, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7]
    real = [True] * 4 + [False] * 2 + [True] * 5 + [False] * 3
    assert pack.row.attention_mask.tolist() == real
    assert pack.cu_seqlens.tolist() == [0, 6, 11]
    assert pack.cu_seqlens_padded.tolist() == [0, 8, 16]
    assert pack.cu_seqlens.dtype == pack.cu_seqlens_padded.dtype == np.int32
    assert pack.max_seqlen == 8
    assert pack.num_tiles.tolist() == [1]
    assert [tuple(tiles.shape) for tiles in pack.pixels] == [(1, 3, 2, 2), (0, 3, 2, 2)]
    assert pack.keys == ("picture", "text")


@given(some_samples, configs)
def test_a_packed_sample_is_what_it_is_alone(
    samples: list[EncodedSample], config: RowConfig
) -> None:
    pack = build_pack(samples, config)
    true = np.diff(pack.cu_seqlens).tolist()
    for sample, segment, size in zip(samples, segments(pack, config), true, strict=True):
        alone = expand_then_shift(sample, config.num_image_embeddings_per_tile)
        # The last token is read only where it is an image: nothing is left for it to predict.
        assert size == len(alone) - (alone[-1][0] != IMAGE)
        assert segment[:size] == alone[:size]


@given(some_samples, configs)
def test_position_ids_restart_at_every_sample(
    samples: list[EncodedSample], config: RowConfig
) -> None:
    for segment in segments(build_pack(samples, config), config):
        assert [position for _, position, _ in segment] == list(range(len(segment)))


@given(some_samples, configs)
def test_labels_never_cross_samples(samples: list[EncodedSample], config: RowConfig) -> None:
    """Each label is the token after it in its own sample; padding has none."""
    pack = build_pack(samples, config)
    true = np.diff(pack.cu_seqlens).tolist()
    for sample, segment, size in zip(samples, segments(pack, config), true, strict=True):
        following = [*(token for token, _, _ in segment[1:size]), int(sample.tokens[-1])]
        for (_, _, label), after in zip(segment[:size], following, strict=True):
            assert label in (IGNORE, after)
        assert all(part[0] == PAD and part[2] == IGNORE for part in segment[size:])


@given(some_samples, configs)
def test_bounds_are_lengths(samples: list[EncodedSample], config: RowConfig) -> None:
    pack = build_pack(samples, config)
    padded = np.diff(pack.cu_seqlens_padded)
    assert padded.tolist() == [length(sample, config) for sample in samples]
    assert not (padded % config.alignment).any()
    waste = padded - np.diff(pack.cu_seqlens)
    assert ((waste >= 0) & (waste < config.alignment)).all()
    assert pack.max_seqlen == padded.max()
    assert pack.row.attention_mask.sum() == len(pack.row.tokens) - waste.sum()


@given(st.lists(encoded_samples(), max_size=30), configs, st.integers(0, 40))
def test_chosen_packs_lose_nothing_and_stay_within_their_length(
    samples: list[EncodedSample], config: RowConfig, spare: int
) -> None:
    lengths = [length(sample, config) for sample in samples]
    packer = Packer(pack_length=max(lengths, default=1) + spare)
    chosen, _ = packer.select(samples, lengths)
    packs = [build_pack(pack, config) for pack in chosen]
    keys = [key for pack in packs for key in pack.keys]
    assert sorted(keys) == sorted(sample.key for sample in samples)
    assert all(pack.cu_seqlens_padded[-1] <= packer.pack_length for pack in packs)


@given(some_samples, configs, st.integers(0, 9))
def test_a_row_padded_to_a_size_is_that_long_and_trains_the_same(
    samples: list[EncodedSample], config: RowConfig, spare: int
) -> None:
    plain = build_pack(samples, config)
    size = int(plain.cu_seqlens_padded[-1]) + spare * config.alignment
    pack = build_pack(samples, config, pad_to=size)
    assert pack.cu_seqlens_padded[-1] == size
    assert pack.cu_seqlens.tolist() == plain.cu_seqlens.tolist()
    assert pack.cu_seqlens_padded[:-1].tolist() == plain.cu_seqlens_padded[:-1].tolist()
    assert pack.max_seqlen == max(map(len, segments(pack, config)))
    *_, last = segments(pack, config)
    assert [position for _, position, _ in last] == list(range(len(last)))
    trained = [label for label in pack.row.labels.tolist() if label != IGNORE]
    assert trained == [label for label in plain.row.labels.tolist() if label != IGNORE]


def test_the_first_token_after_an_image_is_trained() -> None:
    row, size = make_row(encoded("caption", [1, IMAGE, 7, 8]), CONFIG)
    assert row.tokens.tolist() == [1, IMAGE, 7]
    assert row.labels.tolist() == [IGNORE, 7, 8]
    assert size == 5


def test_a_sample_that_ends_in_an_image_keeps_its_slot() -> None:
    sample = encoded("last", [1, 7, IMAGE])
    row, size = make_row(sample, CONFIG)
    assert row.tokens.tolist() == [1, 7, IMAGE]
    assert row.labels.tolist() == [7, IGNORE, IGNORE]
    assert size == 5
    assert length(sample, CONFIG) == 8


def test_other_ids_than_the_usual_ones_are_respected() -> None:
    config = RowConfig(
        pad_id=3, image_token_id=-7, ignore_index=-1, num_image_embeddings_per_tile=2, alignment=8
    )
    picture = encoded("picture", [1, -7, 5], [-1, -1, 5], tiles=[2])
    pack = build_pack([picture], config)
    assert pack.row.tokens.tolist() == [1, -7, 3, 3, 3]
    assert pack.row.labels.tolist() == [-1, 5, -1, -1, -1]
    assert pack.row.position_ids.tolist() == [0, 1, 5, 6, 7]


def test_slots_are_counted_against_images() -> None:
    with pytest.raises(RecordError, match="two: its tokens have 2 image slots, and it has 1"):
        build_pack([encoded("two", [1, IMAGE, IMAGE, 5], tiles=[1])], CONFIG)


def test_images_that_are_not_decoded_are_not_packed() -> None:
    sample = EncodedSample(
        key="raw",
        tokens=np.array([1, IMAGE, 5]),
        labels=np.array([IGNORE, IGNORE, 5]),
        num_tiles=np.array([2]),
    )
    assert length(sample, CONFIG) == 8  # Lengths are known before anything is decoded.
    with pytest.raises(ImageError, match="sample raw: its images have 2 tiles, and 0 are decoded"):
        build_pack([sample], CONFIG)


@pytest.mark.parametrize(
    ("tokens", "labels", "reason"),
    [([1], [1], "empty_sample"), ([], [], "empty_sample"), ([1, 2], [1], "labels_mismatch")],
)
def test_a_sample_that_predicts_nothing_is_refused(
    tokens: list[int], labels: list[int], reason: str
) -> None:
    with pytest.raises(RecordError, match="sample short") as caught:
        encoded("short", tokens, labels)
    assert caught.value.reason == reason


def test_packs_that_cannot_be_built_are_refused() -> None:
    sample = encoded("one", [1, 5, 6, 7, 8, 2])
    with pytest.raises(PackError, match="no samples"):
        build_pack([], CONFIG)
    with pytest.raises(PackError, match=r"samples one to one: takes 8 positions.* limit is 4"):
        build_pack([sample], CONFIG, pad_to=4)
    with pytest.raises(ConfigError, match="pad_to=10"):
        build_pack([sample], CONFIG, pad_to=10)


@pytest.mark.parametrize(
    "settings",
    [
        {"alignment": 0},
        {"num_image_embeddings_per_tile": 0},
        {"pad_id": -200},
    ],
)
def test_rows_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        RowConfig(**settings)


@pytest.mark.parametrize("name", ["encoded", "pack", "packer"])
def test_examples_in_docstrings_hold(name: str) -> None:
    result = doctest.testmod(getattr(neva_prep.loaders, name))
    assert result.attempted
    assert not result.failed


def test_choosing_and_building_packs_imports_neither_torch_nor_energon() -> None:
    names = ["batch", "encoded", "pack", "packer"]
    code = f"import sys, {', '.join(f'neva_prep.loaders.{name}' for name in names)}\n"
    code += "assert not {'torch', 'megatron.energon', 'megatron.core'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
