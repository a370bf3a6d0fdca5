"""A batch comes out of its wrapping as it went in, its pixels left in memory on the way."""

from __future__ import annotations

import os
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch.utils.data import default_convert

from neva_prep.loaders.batch import Batch, PackedSeqParams
from neva_prep.loaders.transfer import pack_up, unpack


def batch() -> Batch:
    bounds = torch.tensor([0, 3, 5], dtype=torch.int32)
    return {
        "tokens": torch.tensor([[1, -200, 2, 3, 4]]),
        "labels": torch.tensor([[-100, 2, 3, 4, 5]]),
        "loss_mask": torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0]]),
        "position_ids": torch.tensor([[0, 1, 577, 0, 1]]),
        "attention_mask": torch.tensor([[True, True, True, True, False]]),
        "media": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        "num_media_tiles": torch.tensor([1]),
        "packed_seq_params": PackedSeqParams(
            cu_seqlens_q=bounds,
            cu_seqlens_kv=bounds,
            cu_seqlens_q_padded=bounds,
            cu_seqlens_kv_padded=bounds,
            max_seqlen_q=3,
            max_seqlen_kv=3,
        ),
        "__keys__": ["000000001"],
        "__origins__": ["shards"],
    }


def tensors(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(tensors, value.values()))
    return isinstance(value, torch.Tensor)


def test_no_tensor_travels() -> None:
    # What DataLoader does in a worker to all that it sends.
    sent = default_convert((pack_up(batch()), 1))[0]  # type: ignore[no-untyped-call]
    assert tensors(sent.rest) == 0
    assert len(ForkingPickler.dumps(sent)) < 3000


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 40, 40), (0, 3, 4, 4)])
def test_pixels_are_found_where_they_were_left(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    before = batch() | {"media": (torch.rand(shape) * 255).to(dtype)}
    sent = [pickle.dumps(pack_up(before)) for _ in range(3)]
    for one in sent:
        after = unpack(pickle.loads(one))["media"]
        assert after.dtype == dtype and torch.equal(after, before["media"])
        # Whoever trains may write into it.
        after += 1


def test_memory_that_was_taken_stays_and_is_not_kept_open_for_ever() -> None:
    first = pickle.loads(pickle.dumps(pack_up(batch() | {"media": torch.arange(12.0)})))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        pickle.dumps(pack_up(batch()))
    assert len(os.listdir("/proc/self/fd")) - before <= 16
    assert unpack(first)["media"].tolist() == list(range(12))


def test_a_batch_comes_out_with_the_same_values_and_types() -> None:
    before, after = batch(), unpack(pack_up(batch()))
    assert list(before) == list(after)
    for name, value in before.items():
        found = after[name]  # type: ignore[literal-required]
        if isinstance(value, torch.Tensor):
            assert found.dtype == value.dtype and torch.equal(found, value), name
        elif name != "packed_seq_params":
            assert found == value, name
    bounds = after["packed_seq_params"]
    assert bounds.cu_seqlens_q_padded.dtype == torch.int32
    assert bounds.cu_seqlens_kv.tolist() == [0, 3, 5] and bounds.max_seqlen_q == 3
