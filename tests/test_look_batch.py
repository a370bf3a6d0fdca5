"""What the batch view shows is what the data module yields, number for number."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import members, picture, write_dataset, write_source
from loader_help import EMBEDDINGS, conversations, encoder, module, tokenizer
from torch import Tensor

from neva_prep.dataprep.look.batch import view_batch, view_batches
from neva_prep.dataprep.look.open import open_looked
from neva_prep.dataprep.look.pack import view_packs
from neva_prep.dataprep.look.settings import LookSettings, build_module
from neva_prep.dataprep.look.tokens import view_tokens
from neva_prep.dataprep.look.view import BatchView, RowView
from neva_prep.errors import ConfigError
from neva_prep.loaders import ImageConfig

GRID = ImageConfig(size=28, fit="grid", grids=((28, 56), (56, 56)), output="uint8")
BF16 = ImageConfig(size=28, output="bfloat16")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples without, with one and with two images, some of them wide."""
    shards: dict[str, Any] = {}
    for shard in range(4):
        samples = {}
        for number in range(shard * 8, shard * 8 + 8):
            sample = members(number, images=(1, 0, 2)[number % 3], text="Why " * (number % 11))
            if number % 6 == 0:
                sample[0] = ("000.jpg", picture(90, 30))
            samples[f"{number:09d}"] = sample
        shards[f"train-{shard:06d}.tar"] = samples
    return write_dataset(tmp_path_factory.mktemp("batch") / "ds", shards)


def rows(view: BatchView, take: Any) -> list[list[Any]]:
    return [take(row) for row in view.rows]


def rebuilt(view: BatchView) -> dict[str, Any]:
    """The batch, from nothing but what is shown."""

    def numbers(name: str) -> Any:
        return lambda row: [getattr(token, name) for token in row.tokens]

    return {
        "tokens": torch.tensor(rows(view, numbers("id"))),
        "labels": torch.tensor(rows(view, numbers("label"))),
        "position_ids": torch.tensor(rows(view, numbers("position_id"))),
        "loss_mask": torch.tensor(rows(view, lambda row: row.loss_mask)),
        "attention_mask": torch.tensor(rows(view, lambda row: row.attention_mask)),
        "num_media_tiles": torch.tensor(view.num_media_tiles, dtype=torch.int64),
        "__keys__": list(view.keys),
        "__origins__": list(view.origins),
    }


def check_equal(view: BatchView, batch: Any) -> None:
    """A view against the batch of another, equal data module."""
    made = rebuilt(view)
    for name, value in made.items():
        if isinstance(value, Tensor):
            assert value.dtype == batch[name].dtype and torch.equal(value, batch[name]), name
        else:
            assert value == batch[name]
    assert {t.name for t in view.tensors if "." not in t.name} == {
        name for name, value in batch.items() if isinstance(value, Tensor)
    }
    for tensor in view.tensors:
        if "." not in tensor.name:
            assert tensor.shape == tuple(batch[tensor.name].shape)
            assert f"torch.{tensor.dtype}" == str(batch[tensor.name].dtype)
    params = batch.get("packed_seq_params")
    if params is not None:
        assert list(view.cu_seqlens) == params.cu_seqlens_q.tolist()
        assert list(view.cu_seqlens_padded) == params.cu_seqlens_q_padded.tolist()
        assert view.max_seqlen == params.max_seqlen_q
        (row,) = view.rows
        ends = [0, *(segment.padded_end for segment in row.pack.segments)]
        assert ends == params.cu_seqlens_q_padded.tolist()
        true = np.cumsum([0, *(s.end - s.start for s in row.pack.segments)])
        assert true.tolist() == params.cu_seqlens_q.tolist()
    assert len(view.media) == len(batch["media"])
    if batch["media"].dtype == torch.uint8:
        for shown, tile in zip(view.media, batch["media"], strict=True):
            assert np.array_equal(shown, tile.permute(1, 2, 0).numpy())


def check_traced(row: RowView, looked: Any, made: Any) -> None:
    """Each position of a row has the text, turn and rule of its sample's token."""
    tokens = iter(row.tokens)
    for segment in row.pack.segments:
        told = view_tokens(looked, looked.find(key=segment.key), made)
        assert segment.num_trained == sum(token.label != -100 for token in told.tokens)
        assert segment.end - segment.start == told.length
        for expected in told.tokens:
            if expected.position_id >= told.length:
                break  # The last token, which only is a label.
            token = next(tokens)
            assert (token.id, token.piece, token.text, token.turn, token.rule, token.trained) == (
                expected.id,
                expected.piece,
                expected.text,
                expected.turn,
                expected.rule,
                expected.trained,
            )
            assert token.embeddings == expected.embeddings
        for _ in range(segment.padded_end - segment.end):
            token = next(tokens)
            assert (token.rule, token.trained, token.turn) == ("padding", False, None)
    assert next(tokens, None) is None


# How batches are made -> options of the encoder, and of the data module.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "padded": ({}, {"micro_batch_size": 3, "global_batch_size": 3}),
    "padded, tiles": ({"images": GRID}, {"micro_batch_size": 3, "global_batch_size": 3}),
    "packed": ({"packed": True}, {}),
    "packed, tiles": ({"packed": True, "images": GRID}, {}),
    "packed and aligned": ({"packed": True, "pack_alignment": 8}, {}),
    "packed, aligned, filled up": ({"packed": True, "pack_alignment": 8, "pad_packs": True}, {}),
    "packed, by workers": ({"packed": True}, {"num_workers": 2}),
    "padded, bfloat16": ({"images": BF16}, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_view_is_the_batch(way: str, dataset: Path) -> None:
    options, settings = WAYS[way]
    packed = options.get("packed", False)
    looked = open_looked(dataset)
    made = encoder(**options)
    with module(dataset, packed=packed, task_encoder=made, **settings) as data:
        views = list(view_batches(data, looked, steps=range(5)))
    with module(dataset, packed=packed, task_encoder=encoder(**options), **settings) as data:
        batches = list(islice(data.train_dataloader(), 5))
    images = text_only = 0
    for view, batch in zip(views, batches, strict=True):
        check_equal(view, batch)
        for row in view.rows:
            check_traced(row, looked, made)
            counts = [len(segment.images) for segment in row.pack.segments]
            images, text_only = max([images, *counts]), text_only + counts.count(0)
    assert images == 2 and text_only, "all kinds of samples were there"
    assert [view.step for view in views] == [0, 1, 2, 3, 4]


def test_batches_are_taken_from_where_they_are_asked_for(dataset: Path) -> None:
    with module(dataset) as data:
        third = list(islice(data.train_dataloader(), 3))[2]
    with module(dataset) as data:
        (view,) = view_batches(data, steps=range(2, 3))
    check_equal(view, third)
    assert view.step == 2


def test_bars_are_those_of_the_batches(dataset: Path) -> None:
    looked = open_looked(dataset)
    with module(dataset, packed=True) as data:
        views = list(view_batches(data, looked, steps=range(3)))
    with module(dataset, packed=True) as data:
        packs = list(view_packs(data, looked, steps=range(3)))
    assert packs == [row.pack for view in views for row in view.rows]
    assert all(pack.capacity == 256 or 0 < pack.fill <= 1 for pack in packs)
    names = [segment.images for pack in packs for segment in pack.segments]
    assert ("000.jpg", "001.png") in names and () in names


def test_a_batch_of_another_dataset_is_shown_without_its_texts(
    dataset: Path, tmp_path: Path
) -> None:
    other = open_looked(conversations(tmp_path / "other"))
    with module(dataset, packed=True) as data:
        batch = next(iter(data.train_dataloader()))
        for looked in (None, other):
            view = view_batch(batch, data.task_encoder, looked)
            check_equal(view, batch)
            assert {token.turn for token in view.rows[0].tokens} == {None}
            assert "answer" in {token.rule for token in view.rows[0].tokens}
    names = [name for segment in view.rows[0].pack.segments for name in segment.images]
    assert names


def test_tiles_are_seen_as_they_were_before_normalising(dataset: Path) -> None:
    looked = open_looked(dataset)
    views = []
    for output in ("uint8", "float32", "bfloat16"):
        images = ImageConfig(size=28, output=output)
        with module(dataset, task_encoder=encoder(images=images)) as data:
            views.append(next(view_batches(data, looked)))
    for exact, full, half in zip(*(view.media for view in views), strict=True):
        assert np.array_equal(exact, full)
        assert np.abs(exact.astype(int) - half.astype(int)).max() <= 2


def test_settings_build_what_training_builds(dataset: Path, tmp_path: Path) -> None:
    settings = LookSettings(
        tokenizer=tokenizer(),
        images=ImageConfig(size=28),
        num_image_embeddings_per_tile=EMBEDDINGS,
        packed_sequence_size=256,
    )
    looked = open_looked(dataset, split="train")
    with build_module(looked, settings) as data:
        (view,) = view_batches(data, looked)
    assert view.keys[0] == "000000000", "unshuffled unless asked"
    source, images = write_source(tmp_path)
    opened = open_looked(source, images=images)
    with build_module(opened, settings) as data:
        (view,) = view_batches(data, opened)
    assert {token.turn for token in view.rows[0].tokens} == {None, 0, 1}
    with pytest.raises(ConfigError, match="need a tokenizer"):
        build_module(looked, LookSettings())
