"""Token figures are the loader's own, and the forecast packs as the loader packs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_help import make_source, record, text_record, turns
from handmade import members, valid_shards, write_dataset
from hypothesis import given
from hypothesis import strategies as st
from loader_help import IMAGES, conversations, tokenizer

from neva_prep.dataprep.stats import Tokenizing, stats
from neva_prep.dataprep.stats.forecast import BUFFER, forecast
from neva_prep.errors import PackError, TemplateError
from neva_prep.loaders import MultiModalTaskEncoder
from neva_prep.loaders.packer import Packer
from neva_prep.loaders.stream import open_dataset
from neva_prep.loaders.stream_module import DEFAULT_PACKING_BUFFER
from neva_prep.templates.encode import encode_conversation
from neva_prep.templates.library import get_template


def how(**given: Any) -> Tokenizing:
    return Tokenizing(tokenizer=tokenizer(), template=get_template("v1"), **given)


def long_source(folder: Path) -> Path:
    """Text-only, one and two images; a long one; record 4 cannot be tokenized by v1."""
    rows = [
        text_record("short", "Why?", "So."),
        record("one", conversations=turns("<image>\nWhat?", "A cat.", "And?", "A dog.")),
        record("two", ["good.jpg"] * 2, conversations=turns("<image> or <image>?", "Both.")),
        text_record("long", "Why?", "word " * 900),
    ]
    return make_source(folder, rows * 3)


@pytest.mark.parametrize("workers", [1, 2])
def test_lengths_and_trained_tokens_are_those_of_the_encoder(tmp_path: Path, workers: int) -> None:
    source = long_source(tmp_path)
    found = stats(source, tokenizing=how(image_embeddings=100), workers=workers)
    import json

    samples = [
        encode_conversation(row["conversations"], tokenizer=tokenizer(), template="v1")
        for row in json.loads(source.read_text())
    ]
    tokens = found.tokens
    assert tokens is not None and tokens.text.count == 12 and not tokens.failures
    images = sum(sample.num_images for sample in samples)
    assert tokens.text.total == sum(len(sample.tokens) for sample in samples) - images
    # The last token of a sample is predicted and not read.
    assert tokens.positions.total == tokens.text.total + 100 * images - len(samples)
    assert tokens.trained.total == sum(sample.num_trained for sample in samples)
    assert tokens.trained_of_text == tokens.trained.total / tokens.text.total
    assert tokens.untrained_samples == 0
    percents = [
        100 * sample.num_trained // (len(sample.tokens) - sample.num_images) for sample in samples
    ]
    assert tokens.trained_percent.total == sum(percents)


def test_positions_are_what_the_task_encoder_counts(tmp_path: Path) -> None:
    dataset = conversations(tmp_path / "data", train=30, shards=2)
    encoder = MultiModalTaskEncoder(
        tokenizer(),
        IMAGES,
        packed_sequence=True,
        packed_sequence_size=4096,
        template=get_template("v1"),
        num_image_embeddings_per_tile=4,
    )
    lengths = [encoder.preencode_sample(sample).length for sample in open_dataset(dataset)]
    found = stats(dataset, split="train", tokenizing=how(image_embeddings=4))
    assert found.tokens is not None
    assert (found.tokens.positions.count, found.tokens.positions.total) == (30, sum(lengths))
    assert (found.tokens.positions.min, found.tokens.positions.max) == (min(lengths), max(lengths))
    assert found.forecasts[0].positions == sum(lengths)


def test_front_moves_images_as_the_encoder_does(tmp_path: Path) -> None:
    rows = [record("r", conversations=turns("What is it?\n<image>", "A cat."))]
    source = make_source(tmp_path, rows)
    front = encode_conversation(
        rows[0]["conversations"], tokenizer=tokenizer(), template="v1", image_placement="front"
    )
    found = stats(source, tokenizing=how(front=True)).tokens
    assert found is not None and found.text.total == len(front.tokens) - 1


def test_a_record_that_cannot_be_tokenized_is_counted_and_spoils_no_other(tmp_path: Path) -> None:
    shards = valid_shards()
    odd = [{"from": "human", "value": "Why?"}, {"from": "narrator", "value": "So."}]
    # An image in a system turn is text to the shards, and an image to the template.
    system = [{"from": "system", "value": "See <image>."}, *turns("Why?", "So.")]
    for key, talk in (("000000000", odd), ("000000001", system)):
        shards["train-000000.tar"][key] = members(int(key), images=0, conversations=talk)
    found = stats(write_dataset(tmp_path / "d", shards), tokenizing=how())
    assert found.counted == 7 and found.tokens is not None and found.tokens.text.count == 5
    assert sum(found.tokens.failures.values()) == 2
    said = str(found.tokens.examples)
    assert "sample 000000000: message 1: unknown role" in said and "sample 000000001" in said


def test_a_template_that_fits_no_record_is_an_error(tmp_path: Path) -> None:
    rows = [text_record("t", "Why?", "So.")]
    rows[0]["conversations"].insert(0, {"from": "system", "value": "See <image>."})
    with pytest.raises(TemplateError, match="none of 1 records can be tokenized"):
        stats(make_source(tmp_path, rows), tokenizing=how())


def test_no_tokenizer_no_forecast(tmp_path: Path) -> None:
    found = stats(long_source(tmp_path))
    assert found.tokens is None and found.forecasts == ()


def test_the_buffer_is_the_loaders() -> None:
    assert BUFFER == DEFAULT_PACKING_BUFFER


def lengths_of(rows: Iterable[tuple[int, int]]) -> list[np.ndarray]:
    return [np.array([row], np.int32) for row in rows]


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 5)), min_size=1, max_size=60))
def test_every_sample_is_in_a_pack_or_too_long(rows: list[tuple[int, int]]) -> None:
    found = forecast(lengths_of(rows), 7, pack_lengths=(1000, 3000))
    for row in found:
        fits = [sample for sample in rows if sample[0] <= row.pack_length]
        assert (row.samples, row.oversize) == (len(fits), len(rows) - len(fits))
        assert row.positions == sum(length for length, _ in fits)
        assert row.images == sum(images for _, images in fits)
        least = -(-row.positions // row.pack_length)
        assert least <= row.packs <= len(fits)
        assert row.efficiency <= 1 and row.steps_per_epoch == -(-row.packs // 7)
    assert found[1].oversize == 0


def test_forecast_is_what_the_packer_gives_buffer_by_buffer() -> None:
    rows = [(100 + 37 * n % 900, n % 3) for n in range(2 * BUFFER + 100)]
    (row,) = forecast(lengths_of(rows), None, pack_lengths=(1024,))
    shuffled = np.random.default_rng(0).permutation(np.array(rows))
    packer = Packer(pack_length=1024)
    packs = [
        [images for _, images in pack]
        for start in range(0, len(rows), BUFFER)
        for pack in packer.select(
            shuffled[start : start + BUFFER].tolist(),
            shuffled[start : start + BUFFER, 0].tolist(),
        )[0]
    ]
    assert row.packs == len(packs) and row.steps_per_epoch is None
    assert row.most_samples == max(map(len, packs))
    assert row.most_images == max(map(sum, packs))
    assert row.images_per_pack == sum(map(sum, packs)) / len(packs)


def test_oversize_is_what_the_packer_refuses(tmp_path: Path) -> None:
    found = stats(long_source(tmp_path), tokenizing=how(image_embeddings=3000))
    assert found.tokens is not None
    too_long = [row.oversize for row in found.forecasts]
    assert too_long == [6, 3, 0]
    with pytest.raises(PackError):
        Packer(pack_length=4096).check("two", found.tokens.positions.max)
