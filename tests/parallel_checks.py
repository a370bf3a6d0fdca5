"""What is asked of four ranks beside equal numbers; each function runs on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from loader_help import EMBEDDINGS, module
from parallel_cases import CONFIG, DISTRIBUTED, LAYOUTS, LENGTH, VARIANTS, fill
from torch import Tensor

from neva_prep.errors import RecordError, TrainingError
from neva_prep.loaders.batch import Batch
from neva_prep.loaders.ranks import find_data_parallel
from neva_prep.trainer.adapter import write_adapter
from neva_prep.trainer.build import Training, build_training
from neva_prep.trainer.expand import ExpandedBatch, expand_batch
from neva_prep.trainer.lora import LoRA
from neva_prep.trainer.optimizer import OptimizerSettings
from neva_prep.trainer.share import reads_data, share_batches
from neva_prep.trainer.step import evaluate_step, train_step
from neva_prep.trainer.weights import save_weights

Check = Callable[[Path, str], None]


def expand(batch: Batch) -> ExpandedBatch:
    return expand_batch(batch, num_image_embeddings_per_tile=EMBEDDINGS, multiple_of=8)


def gathered(value: Any) -> list[Any]:
    """What each rank has."""
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def read_once_per_data_rank(folder: Path, layout: str) -> None:
    """Loaders find their rank by themselves, and only one of a data-parallel rank reads."""
    from megatron.core import parallel_state

    place = find_data_parallel()
    assert place.size == parallel_state.get_data_parallel_world_size() == 2
    assert place.rank == parallel_state.get_data_parallel_rank()
    stream = None
    data = module(folder / "conversations", micro_batch_size=2, global_batch_size=4)
    if reads_data():
        stream = iter(data.train_dataloader())
    keys = [micro.keys for micro in share_batches(stream, 20, expand)]
    data.close()
    per_rank = gathered((place.rank, keys))
    first, second = ({rank: keys for rank, keys in per_rank}[rank] for rank in (0, 1))
    assert all(keys == (first, second)[rank] for rank, keys in per_rank)
    assert len(first) == len(second) == 20
    assert not {key for part in first for key in part} & {key for part in second for key in part}


def pixels_go_where_they_are_seen(folder: Path, layout: str) -> None:
    """In a pipeline, only the first stage gets them; all get their positions of the rows."""
    from megatron.core import parallel_state

    batches = torch.load(folder / "batches.pt", weights_only=False)["padded"]
    shared = share_batches(iter(batches) if reads_data() else None, 2, expand)
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True)
    for micro, batch in zip(shared, batches, strict=False):
        tiles = len(batch["media"]) if first else 0
        assert micro.batch.media.shape == (tiles, 3, 28, 28)
        assert micro.batch.media.dtype == torch.uint8
        assert torch.equal(micro.batch.labels, expand(batch).labels)


def all_ranks_stop_with_their_reader(folder: Path, layout: str) -> None:
    """No rank waits for one whose data is broken."""

    def broken() -> Iterator[Batch]:
        yield from torch.load(folder / "batches.pt", weights_only=False)["padded"][:1]
        raise RecordError("train.json:7: is broken")

    try:
        share_batches(broken() if reads_data() else None, 2, expand)
    except RecordError as error:
        assert reads_data()
        assert "train.json:7" in str(error)
    except TrainingError as error:
        assert not reads_data()
        assert "RecordError: train.json:7: is broken" in str(error)
    else:
        raise AssertionError("nothing was raised")


def all_ranks_name_the_samples_of_a_bad_loss(folder: Path, layout: str) -> None:
    """One rank's pixels are not finite: all stop before the update, and say whose they are."""
    from megatron.core import parallel_state

    batches = torch.load(folder / "batches.pt", weights_only=False)["packed"][:4]
    batch = batches[parallel_state.get_data_parallel_rank()]
    bad = batches[2]
    if batch is bad:
        batch["media"] = torch.full(batch["media"].shape, torch.nan)
    training = build_training(CONFIG, parallel=LAYOUTS[layout], optimizer=OptimizerSettings())
    before = [weight.clone() for weight in training.chunks[0].parameters()]
    try:
        step(training, [batch], LENGTH["packed"])
    except TrainingError as error:
        for key in bad["__keys__"]:
            assert key in str(error)
        assert not any(key in str(error) for key in batches[0]["__keys__"])
    else:
        raise AssertionError("nothing was raised")
    for weight, was in zip(training.chunks[0].parameters(), before, strict=True):
        assert torch.equal(weight, was)


def images_on_some_ranks_only(folder: Path, layout: str) -> None:
    """Buckets of gradients and weights keep their order, whichever layers a batch passes."""
    from megatron.core import parallel_state

    batches = torch.load(folder / "batches.pt", weights_only=False)["padded"]
    rank = parallel_state.get_data_parallel_rank()
    own = [without_images(batch) if (n + rank) % 2 else batch for n, batch in enumerate(batches)]
    training = build_training(CONFIG, parallel=LAYOUTS[layout], optimizer=DISTRIBUTED)
    for number in range(4):
        result = step(training, own[number : number + 1], LENGTH["padded"])
        assert evaluate(training, own[:1]).loss < 10
    assert len({str(other) for other in gathered(result)}) == 1


def without_images(batch: Batch) -> Batch:
    """A batch of text alone: images become words."""
    made = dict(batch)
    tokens = batch["tokens"]
    made["tokens"] = tokens.where(tokens >= 0, 5)
    made["media"] = batch["media"][:0]
    made["num_media_tiles"] = batch["num_media_tiles"][:0]
    return made  # type: ignore[return-value]


def evaluation_equals_one_rank(folder: Path, layout: str) -> None:
    """Also of the last batch, which has fewer rows, and of fewer batches than asked for."""
    expected = torch.load(folder / "evaluated.pt", weights_only=False)
    batches = torch.load(folder / "batches.pt", weights_only=False)["padded"][:3]
    training = build_training(
        CONFIG,
        parallel=LAYOUTS[layout],
        load=lambda chunks: fill(chunks, expected["weights"]),
    )
    batches[2] = one_row(batches[2])
    stream = iter(batches)
    found = evaluate(training, stream, 4)
    assert found.num_trained_tokens == expected["result"].num_trained_tokens * 2
    assert found.num_tokens == expected["result"].num_tokens * 2
    assert abs(found.loss / expected["result"].loss - 1) < 1e-5
    assert evaluate_step(training, stream, num_micro_batches=4, **sizes(LENGTH["padded"])) is None


def one_row(batch: Batch) -> Batch:
    """The first row, with its images."""
    made = dict(batch)
    for name in ("tokens", "labels", "loss_mask", "position_ids", "attention_mask"):
        value = made[name]
        assert isinstance(value, Tensor)
        made[name] = value[:1]
    images = int((batch["tokens"][0] < 0).sum())
    made["num_media_tiles"] = batch["num_media_tiles"][:images]
    made["media"] = batch["media"][: int(batch["num_media_tiles"][:images].sum())]
    return made  # type: ignore[return-value]


def dropout_leaves_ranks_alike(folder: Path, layout: str) -> None:
    """What each tensor rank holds whole is the same on all after steps with dropout."""
    batches = torch.load(folder / "batches.pt", weights_only=False)["packed"]
    torch.manual_seed(1)
    lora = LoRA(dim=4, dropout=0.5)
    training = build_training(CONFIG, parallel=LAYOUTS[layout], peft=lora)
    if reads_data():
        torch.rand(1)  # as loaders do
    weights = dict(training.chunks[0].named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if name.endswith("lora_b"):
                weight.fill_(0.01)
    step(training, batches[:2], LENGTH["packed"])
    whole = {
        name: weight.detach()
        for name, weight in weights.items()
        if not getattr(weight, "tensor_model_parallel", False)
    }
    assert any(name.endswith("lora_a") for name in whole)
    for other in gathered(whole):
        assert all(torch.equal(weight, other[name]) for name, weight in whole.items())


def write_what_was_cut(folder: Path, layout: str) -> None:
    """Adapters and weights of all ranks, to be read by one."""
    variant = VARIANTS["packed-lora"]
    weights = torch.load(folder / "packed-lora.pt", weights_only=False)["start"]
    training = build_training(variant.config, parallel=LAYOUTS[layout], peft=variant.peft)
    fill(training.chunks, weights)
    write_adapter(training.chunks, folder / f"{layout}-adapter")
    save_weights(training.chunks, folder / f"{layout}-weights")


def sizes(length: int) -> dict[str, int]:
    return {"seq_length": length, "micro_batch_size": 2 if length == LENGTH["padded"] else 1}


def step(training: Training, batches: list[Batch], length: int) -> Any:
    stream = iter(batches) if reads_data() else None
    return train_step(training, stream, num_micro_batches=len(batches), **sizes(length))


def evaluate(training: Training, batches: Any, count: int = 1) -> Any:
    found = evaluate_step(
        training, iter(batches), num_micro_batches=count, **sizes(LENGTH["padded"])
    )
    assert found is not None
    return found


CHECKS: dict[str, tuple[str, Check]] = {
    f"{layout}: {check.__name__}": (layout, check)
    for layout, check in (
        ("tp2", read_once_per_data_rank),
        ("pp2", read_once_per_data_rank),
        ("tp2-pp2", pixels_go_where_they_are_seen),
        ("tp2-pp2", all_ranks_stop_with_their_reader),
        ("dp4", all_ranks_name_the_samples_of_a_bad_loss),
        ("dp4", images_on_some_ranks_only),
        ("pp2-vpp2", evaluation_equals_one_rank),
        ("cp2", evaluation_equals_one_rank),
        ("tp2", dropout_leaves_ranks_alike),
        ("tp2-sp", dropout_leaves_ranks_alike),
        ("tp2-pp2", write_what_was_cut),
    )
}


def write_expected_evaluation(folder: Path, weights: dict[str, Tensor]) -> None:
    """What one rank gives."""
    batches = torch.load(folder / "batches.pt", weights_only=False)["padded"][:3]
    batches[2] = one_row(batches[2])
    training = build_training(CONFIG, load=lambda chunks: fill(chunks, weights))
    torch.save(
        {"weights": weights, "result": evaluate(training, batches, 3)}, folder / "evaluated.pt"
    )
