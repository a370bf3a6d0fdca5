"""Batches: fields, shapes, types and values, worked out by hand."""

import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from encoded_samples import IGNORE, IMAGE, encoded, encoded_samples
from hypothesis import given
from hypothesis import strategies as st

from neva_prep.errors import ImageError, PackError
from neva_prep.loaders.batch import Batch, PackedSeqParams
from neva_prep.loaders.collate import collate_pack, collate_padded
from neva_prep.loaders.encoded import EncodedSample, RowConfig
from neva_prep.loaders.pack import build_pack

CONFIG = RowConfig(pad_id=0, num_image_embeddings_per_tile=3, alignment=4, image_size=(2, 2))
FIELDS = {
    "tokens": torch.int64,
    "labels": torch.int64,
    "loss_mask": torch.float32,
    "position_ids": torch.int64,
    "attention_mask": torch.bool,
}
MEGATRON_FIELDS = (
    *("qkv_format", "cu_seqlens_q", "cu_seqlens_kv", "cu_seqlens_q_padded"),
    *("cu_seqlens_kv_padded", "max_seqlen_q", "max_seqlen_kv"),
)


def without_images(key: str, pixels: torch.Tensor | None = None) -> EncodedSample:
    text = encoded(key, [1, 5, 2])
    return EncodedSample(
        key=key, tokens=text.tokens, labels=text.labels, num_tiles=text.num_tiles, pixels=pixels
    )


def dtypes(batch: Batch) -> dict[str, torch.dtype]:
    return {name: value.dtype for name, value in dict[str, Any](batch).items() if name in FIELDS}


def packed_batch() -> Batch:
    samples = [encoded("picture", [1, IMAGE, 7, 2], color=9), encoded("text", [1, 5, 6, 2, 2, 2])]
    return collate_pack(build_pack(samples, CONFIG), CONFIG)


def test_a_padded_batch_by_hand() -> None:
    batch = collate_padded(
        [
            encoded("one", [1, IMAGE, 7, 8, 2], [IGNORE, IGNORE, IGNORE, 8, 2], color=9),
            encoded("two", [1, IMAGE, 3, IMAGE, 4], tiles=[2, 1], color=5),
            without_images("none"),
        ],
        CONFIG,
    )
    assert batch["tokens"].tolist() == [[1, IMAGE, 7, 8], [1, IMAGE, 3, IMAGE], [1, 5, 0, 0]]
    assert batch["labels"].tolist() == [
        [IGNORE, IGNORE, 8, 2],
        [IGNORE, 3, IGNORE, 4],
        [5, 2, IGNORE, IGNORE],
    ]
    assert batch["loss_mask"].tolist() == [[0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 4, 5], [0, 1, 7, 8], [0, 1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[True] * 4, [True] * 4, [True, True, False, False]]
    assert dtypes(batch) == FIELDS
    assert batch["media"].shape == (4, 3, 2, 2)
    assert batch["media"].dtype == torch.uint8
    assert batch["media"][:, 0, 0, 0].tolist() == [9, 5, 5, 5]
    assert batch["num_media_tiles"].tolist() == [1, 2, 1]
    assert batch["__keys__"] == ["one", "two", "none"]
    assert "packed_seq_params" not in batch


def test_a_packed_batch_by_hand() -> None:
    batch = packed_batch()
    # Expanded: 1 I I I 7 . . . | 1 5 6 2 2 . . .
    tokens = [1, IMAGE, 7, 0, 0, 0, 1, 5, 6, 2, 2, 0, 0, 0]
    labels = [IGNORE, 7, 2, *[IGNORE] * 3, 5, 6, 2, 2, 2, *[IGNORE] * 3]
    assert batch["tokens"].tolist() == [tokens]
    assert batch["labels"].tolist() == [labels]
    assert batch["loss_mask"].tolist() == [[0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7]]
    assert dtypes(batch) == FIELDS
    assert batch["media"].shape == (1, 3, 2, 2)
    assert batch["num_media_tiles"].tolist() == [1]
    assert batch["__keys__"] == ["picture", "text"]
    params = batch["packed_seq_params"]
    assert params.qkv_format == "thd"
    for name in ("q", "kv"):
        assert getattr(params, f"cu_seqlens_{name}").tolist() == [0, 5, 10]
        assert getattr(params, f"cu_seqlens_{name}_padded").tolist() == [0, 8, 16]
        assert getattr(params, f"cu_seqlens_{name}").dtype == torch.int32
        assert getattr(params, f"cu_seqlens_{name}_padded").dtype == torch.int32
        assert getattr(params, f"max_seqlen_{name}") == 8


def test_the_example_of_the_guide_gives_the_table_below_it() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "packing.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(guide.split("```python\n")[1].split("```")[0], names)
    for field in FIELDS:
        _, row = next(line for line in guide.splitlines() if f"| `{field}` |" in line).split(
            " | ", 1
        )
        shown = row.strip(" |").replace("yes", "True").replace("no", "False").split(" | ")
        values = names["batch"][field][0].tolist()
        assert shown == [f"{value:g}" if field == "loss_mask" else str(value) for value in values]
    assert names["batch"]["packed_seq_params"].cu_seqlens_q.tolist() == [0, 6, 9]


@given(st.lists(encoded_samples(), min_size=1, max_size=5))
def test_a_padded_row_is_its_sample_and_padding(samples: list[EncodedSample]) -> None:
    batch = collate_padded(samples, CONFIG)
    for row, sample in enumerate(samples):
        alone = collate_padded([sample], CONFIG)
        size = alone["tokens"].shape[1]
        assert torch.equal(batch["tokens"][row, :size], alone["tokens"][0])
        assert torch.equal(batch["labels"][row, :size], alone["labels"][0])
        assert torch.equal(batch["position_ids"][row, :size], alone["position_ids"][0])
        assert batch["attention_mask"][row].sum() == size
        assert (batch["tokens"][row, size:] == 0).all()
        assert (batch["labels"][row, size:] == IGNORE).all()
        assert (batch["loss_mask"][row, size:] == 0).all()
    assert (batch["tokens"] == IMAGE).sum() == len(batch["num_media_tiles"])
    assert len(batch["media"]) == batch["num_media_tiles"].sum()
    assert torch.equal(batch["loss_mask"] == 1, batch["labels"] != IGNORE)


def test_a_batch_without_images_has_empty_media() -> None:
    batch = collate_padded([without_images("a"), without_images("b")], CONFIG)
    assert batch["media"].shape == (0, 3, 2, 2)
    assert batch["num_media_tiles"].shape == (0,)
    assert batch["num_media_tiles"].dtype == torch.int64
    pack = build_pack([without_images("a")], CONFIG)
    assert collate_pack(pack, CONFIG)["media"].shape == (0, 3, 2, 2)


def test_empty_pixels_say_of_what_type_empty_media_is() -> None:
    none = torch.empty(0, 3, 2, 2, dtype=torch.bfloat16)
    batch = collate_padded([without_images("a", none), without_images("b")], CONFIG)
    assert batch["media"].dtype == torch.bfloat16


def test_origins_go_with_keys() -> None:
    first, second = encoded("0", [1, 2]), encoded("0", [1, 2, 3])
    named = [
        EncodedSample(
            key=sample.key,
            tokens=sample.tokens,
            labels=sample.labels,
            num_tiles=sample.num_tiles,
            origin=origin,
        )
        for sample, origin in ((first, "ocr"), (second, "chats"))
    ]
    for batch in (collate_padded(named, CONFIG), collate_pack(build_pack(named, CONFIG), CONFIG)):
        assert batch["__keys__"] == ["0", "0"]
        assert batch["__origins__"] == ["ocr", "chats"]


@pytest.mark.parametrize(
    "pixels", [torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)]
)
def test_images_of_different_kinds_are_refused(pixels: torch.Tensor) -> None:
    usual = encoded("usual", [1, IMAGE, 2])
    odd = EncodedSample(
        key="odd",
        tokens=usual.tokens,
        labels=usual.labels,
        num_tiles=usual.num_tiles,
        pixels=pixels,
    )
    with pytest.raises(ImageError, match="usual, odd: tiles of different size or type"):
        collate_padded([usual, odd], CONFIG)
    with pytest.raises(ImageError, match="usual, odd: tiles of different size or type"):
        collate_pack(build_pack([usual, odd], CONFIG), CONFIG)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(PackError, match="no samples"):
        collate_padded([], CONFIG)


def test_collating_changes_no_sample() -> None:
    sample = encoded("one", [1, IMAGE, 7, 2])
    tokens, labels = sample.tokens.copy(), sample.labels.copy()
    batch = collate_padded([sample], CONFIG)
    batch["tokens"].zero_()
    batch["labels"].zero_()
    assert (sample.tokens == tokens).all()
    assert (sample.labels == labels).all()


def test_packed_params_move_with_their_tensors() -> None:
    params = packed_batch()["packed_seq_params"]
    moved = params.to("meta", non_blocking=True)
    assert moved.cu_seqlens_q_padded.device.type == "meta"
    assert moved.max_seqlen_q == params.max_seqlen_q
    assert params.cu_seqlens_q_padded.device.type == "cpu"


def test_packed_params_become_megatrons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without megatron-core: with a class that takes just its fields."""
    fake: Any = ModuleType("megatron.core.packed_seq_params")
    fake.PackedSeqParams = make_dataclass(
        "Params", [(name, object, None) for name in MEGATRON_FIELDS]
    )
    monkeypatch.setitem(sys.modules, "megatron.core", ModuleType("megatron.core"))
    monkeypatch.setitem(sys.modules, "megatron.core.packed_seq_params", fake)
    check_megatrons(packed_batch()["packed_seq_params"], fake.PackedSeqParams)


def test_packed_params_become_those_of_megatron_core() -> None:
    megatron = pytest.importorskip(
        "megatron.core.packed_seq_params", reason="needs megatron-core (the extra `train`)"
    )
    check_megatrons(packed_batch()["packed_seq_params"], megatron.PackedSeqParams)


def check_megatrons(params: PackedSeqParams, kind: type) -> None:
    converted = params.to_megatron()
    assert isinstance(converted, kind)
    for name in MEGATRON_FIELDS:
        assert getattr(converted, name) is getattr(params, name)
