"""The length of a sample counts the tiles that each of its images really has, and fits its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from handmade import Members, members, picture, write_dataset
from loader_help import TILE, encoder, module, spell, tokenizer

from neva_prep.errors import PackError
from neva_prep.loaders import ImageConfig
from neva_prep.templates.encode import encode_conversation
from neva_prep.templates.overflow import Limit

GRID = ImageConfig(size=TILE, output="uint8", fit="grid", grids=((28, 56), (56, 28), (56, 56)))


def talk(number: int, *, turns: int = 4, words: int = 10, images: int = 1) -> Members:
    """Questions and answers; the first has images of 28 x 56, of three tiles in GRID."""
    found = members(number, images=images)
    record = json.loads(found[-1][1])
    record["conversations"] = [
        {"from": role, "value": ("<image>\n" * images if turn == 0 else "") + text * words}
        for turn in range(turns)
        for role, text in (("human", "why "), ("gpt", "so "))
    ]
    pictures = [(name, picture(56, 28)) for name, _ in found[:-1]]
    for entry in record["images"]:
        entry |= {"width": 56, "height": 28}
    return [*pictures, ("json", json.dumps(record).encode())]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = {f"{n:09d}": talk(n) for n in range(4)}
    return write_dataset(tmp_path_factory.mktemp("tiled") / "ds", {"train-000000.tar": samples})


def first(path: Path, *, packed: bool = False, **options: Any) -> tuple[Any, Any]:
    """The first batch, and the report."""
    settings = {"micro_batch_size": 1, "global_batch_size": 1, "shuffle_buffer_size": None}
    with module(
        path, packed=packed, task_encoder=encoder(packed, **options), **settings, max_skip_ratio=1.0
    ) as data:
        return next(data.train_dataloader()), data.skip_report()


@pytest.mark.parametrize("overflow", ["drop_last_turns", "truncate_answer"])
@pytest.mark.parametrize("packed", [False, True])
def test_samples_are_shortened_by_the_tiles_that_they_have(
    packed: bool, overflow: Any, dataset: Path
) -> None:
    whole, _ = first(dataset, images=GRID)
    assert whole["num_media_tiles"].tolist() == [3]
    length = whole["tokens"].shape[1] - 1 + 3 * 4
    for limit in (length - 1, length - 5, length - 40):
        options = {"images": GRID, "seq_length": limit, "overflow": overflow}
        batch, report = first(dataset, packed=packed, **options)
        assert report.skipped == {}
        event = "dropped_turns" if overflow == "drop_last_turns" else "dropped_tokens"
        assert report.events[event] >= 1
        assert batch["num_media_tiles"].tolist()[:1] == [3]
        took = (
            batch["packed_seq_params"].cu_seqlens_q.diff()
            if packed
            else [batch["tokens"].shape[1] - 1 + 3 * 4]
        )
        assert all(size <= limit for size in took)
        if overflow == "truncate_answer":
            assert took[0] > limit - 20, "no more than a question is cut for nothing"


@pytest.mark.parametrize("overflow", ["drop_last_turns", "truncate_answer"])
def test_shortened_samples_fit_a_pack_that_is_no_multiple_of_the_alignment(
    overflow: Any, tmp_path: Path
) -> None:
    samples = {f"{n:09d}": talk(n, turns=7) for n in range(4)}
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": samples})
    batch, report = first(path, packed=True, pack_alignment=100, overflow=overflow)
    assert report.skipped == {} and sum(report.events.values())
    assert batch["packed_seq_params"].cu_seqlens_q_padded.tolist()[-1] <= 200


def test_rows_that_are_not_packed_know_no_alignment(dataset: Path) -> None:
    batch, _ = first(dataset)
    length = batch["tokens"].shape[1] - 1 + 4
    again, report = first(dataset, seq_length=length, pack_alignment=64)
    assert report.skipped == {} and again["tokens"].tolist() == batch["tokens"].tolist()


SAY = [
    {"role": "user", "content": "<image>one"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "<image>two"},
    {"role": "assistant", "content": "no no no"},
]


def test_the_limit_takes_the_embeddings_of_each_image() -> None:
    def encode(embeddings: Any, **options: Any) -> Any:
        return encode_conversation(
            SAY, tokenizer=tokenizer(), template="v1", image_embeddings=embeddings, **options
        )

    whole = encode(1)
    tokens = len(whole.tokens)
    assert Limit(9, image_embeddings=[5, 7]).length(whole) == tokens + 4 + 6
    assert len(encode([5, 7], max_length=tokens + 10).tokens) == tokens
    with pytest.raises(PackError, match=f"has {tokens + 10} tokens"):
        encode([5, 7], max_length=tokens + 9)
    short = encode([5, 700], max_length=tokens + 9, overflow="drop_last_turns")
    assert short.num_images == 1 and spell(short.tokens).endswith("yes</s>")
    cut = encode([5, 7], max_length=tokens + 9, overflow="truncate_answer")
    assert cut.num_images == 2 and len(cut.tokens) == tokens - 1
    cut = encode([5, 700], max_length=tokens + 9, overflow="truncate_answer")
    assert cut.num_images == 1 and cut.tokens.tolist() == short.tokens.tolist()
    assert encode([5], max_length=tokens + 4).num_images == 2, "who refuses that, knows the images"
