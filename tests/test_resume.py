"""A stream that is saved and loaded goes on as if nothing had happened."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import members, write_dataset
from loader_help import conversations, encoder, module, take

from neva_prep.errors import ConfigError
from neva_prep.loaders import ImageConfig
from neva_prep.loaders.resume import from_plain, to_plain


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversations(tmp_path_factory.mktemp("resume") / "ds")


def through_file(state: dict[str, Any]) -> Any:
    """The state as a trainer would store it, read without running any code of it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("packed", [False, True])
def test_30_random_points_without_workers(packed: bool, dataset: Path) -> None:
    last, more = 45, 3
    with module(dataset, packed=packed) as data:
        stream = data.train_dataloader()
        states, batches = {0: data.state_dict()}, []
        points = {0, *random.Random(packed).sample(range(1, last), 29)}
        for step in range(1, last + more):
            batches += take(stream, 1)
            if step in points:
                states[step] = through_file(data.state_dict())
    assert len(states) == 30
    for step, state in states.items():
        with module(dataset, packed=packed) as again:
            again.load_state_dict(state)
            assert take(again.train_dataloader(), more) == batches[step : step + more], step


@pytest.mark.parametrize("packed", [pytest.param(False, marks=pytest.mark.long), True])
def test_30_random_points_with_two_workers(packed: bool, dataset: Path) -> None:
    more = 4
    points = {1, 2, *random.Random(packed).sample(range(3, 36), 28)}
    with module(dataset, packed=packed, num_workers=2) as data:
        stream = data.train_dataloader()
        states, batches = {}, []
        for step in range(1, 40):
            batches += take(stream, 1)
            if step in points:
                states[step] = data.state_dict()
    for step, state in states.items():
        with module(dataset, packed=packed, num_workers=2) as again:
            again.load_state_dict(state)
            assert take(again.train_dataloader(), more) == batches[step : step + more], step


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_stream_can_be_saved_before_every_worker_gave_a_batch(
    num_workers: int, dataset: Path
) -> None:
    with module(dataset, num_workers=num_workers) as data:
        stream = data.train_dataloader()
        take(stream, 13)
        state = data.state_dict()
        expected = take(stream, 12)
    got = []
    # The first worker's batch comes before the second has begun, at least on a busy machine.
    for taken in (0, 1, 2, 1, 8):
        with module(dataset, num_workers=num_workers) as again:
            again.load_state_dict(state)
            got += take(again.train_dataloader(), taken)
            state = again.state_dict()
    assert got == expected


def test_a_loaded_state_is_the_state(dataset: Path) -> None:
    with module(dataset) as data:
        take(data.train_dataloader(), 5)
        state = data.state_dict()
    with module(dataset) as again:
        again.load_state_dict(state)
        assert again.state_dict() == state


def test_the_same_data_module_can_go_back(dataset: Path) -> None:
    with module(dataset) as data:
        take(data.train_dataloader(), 3)
        state = data.state_dict()
        expected = take(data.train_dataloader(), 3)
        data.load_state_dict(state)
        assert take(data.train_dataloader(), 3) == expected


def test_counts_of_skips_go_on(tmp_path: Path) -> None:
    shard = {f"{n:09d}": members(n) for n in range(40)}
    shard["000000017"][0] = ("000.jpg", b"no image")
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": shard})
    with module(path, max_skip_ratio=0.1) as data:
        stream = data.train_dataloader()
        take(stream, 30)
        state, until_then = data.state_dict(), data.skip_report()
        take(stream, 30)
        expected = data.skip_report()
    assert expected.skipped["not_an_image"] in (2, 3, 4)
    with module(path, max_skip_ratio=0.1) as again:
        again.load_state_dict(state)
        assert again.skip_report() == until_then
        take(again.train_dataloader(), 30)
        assert again.skip_report() == expected
        again.load_state_dict(state)
        assert again.skip_report() == until_then


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "workers": ({"num_workers": 1}, "num_workers: saved 0, now 1"),
    "micro batch": ({"micro_batch_size": 1}, "micro_batch_size: saved 2, now 1"),
    "global batch": ({"global_batch_size": 8}, "global_batch_size: saved 4, now 8"),
    "world size": (
        {"data_parallel_rank": 0, "data_parallel_size": 2},
        "data_parallel_size: saved 1, now 2",
    ),
    "seed": ({"seed": 5}, "seed: saved 0, now 5"),
    "shuffle buffer": ({"shuffle_buffer_size": 11}, "shuffle_buffer_size: saved 10, now 11"),
    "packed": (
        {"task_encoder": encoder(True), "micro_batch_size": 1},
        "encoder.packed_sequence: saved False, now True",
    ),
    "image size": (
        {"task_encoder": encoder(images=ImageConfig(size=14, output="uint8"))},
        "encoder.images: saved ",
    ),
    "length": (
        {"task_encoder": encoder(seq_length=100)},
        "encoder.max_length: saved None, now 101",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_settings_are_refused_with_what_differs(name: str, dataset: Path) -> None:
    with module(dataset) as data:
        take(data.train_dataloader(), 1)
        state = data.state_dict()
    options, message = DIFFERENT[name]
    with module(dataset, **options) as other, pytest.raises(ConfigError) as caught:
        other.load_state_dict(state)
    assert message in str(caught.value)


def test_other_settings_of_a_processor_that_is_called_are_refused(dataset: Path) -> None:
    from transformers import BlipImageProcessorPil

    def processor(**settings: Any) -> Any:
        return encoder(images=BlipImageProcessorPil(size={"height": 14, "width": 14}, **settings))

    with module(dataset, task_encoder=processor()) as data:
        take(data.train_dataloader(), 1)
        state = data.state_dict()
    with module(dataset, task_encoder=processor()) as same:
        same.load_state_dict(state)
    with (
        module(dataset, task_encoder=processor(image_mean=[0.5, 0.5, 0.5])) as other,
        pytest.raises(
            ConfigError, match=r"encoder.images.image_mean\[0\]: saved 0.48145466, now 0.5"
        ),
    ):
        other.load_state_dict(state)


def test_another_dataset_is_refused_and_a_moved_one_is_not(tmp_path: Path, dataset: Path) -> None:
    with module(dataset) as data:
        take(data.train_dataloader(), 1)
        state = data.state_dict()
        expected = take(data.train_dataloader(), 2)
    other = conversations(tmp_path / "other", train=121)
    with module(other) as data, pytest.raises(ConfigError, match=r"dataset.parts\[0\].samples"):
        data.load_state_dict(state)
    import shutil

    moved = shutil.copytree(dataset, tmp_path / "moved")
    with module(moved) as data:
        data.load_state_dict(state)
        assert take(data.train_dataloader(), 2) == expected


@pytest.mark.parametrize("state", [{}, {"version": 99}, None])
def test_what_is_no_state_is_refused(state: Any, dataset: Path) -> None:
    with module(dataset) as data, pytest.raises(ConfigError, match="is no loader state"):
        data.load_state_dict(state)


def test_a_state_cannot_name_a_class() -> None:
    with pytest.raises(ConfigError, match="holds a 'Popen'"):
        from_plain({"__energon__": "Popen", "items": {"args": "true"}})


def test_plain_data_comes_back_as_it_was() -> None:
    import numpy as np

    value: dict[str, Any] = {
        "a": (1, [2.5, (None, b"x")]),
        "b": torch.arange(3),
        "c": np.arange(4, dtype=np.uint32),
    }
    back = from_plain(to_plain(value))
    assert back["a"] == value["a"]
    assert torch.equal(back["b"], value["b"])
    assert back["c"].dtype == np.uint32 and back["c"].tolist() == [0, 1, 2, 3]


def train_until_killed(path: Path, out: Path) -> None:
    """Save after each batch, as a training would now and then, until the process is killed."""
    with module(path, packed=True, num_workers=2) as data:
        for step, _ in enumerate(data.train_dataloader(), 1):
            torch.save((step, data.state_dict()), out.with_suffix(".tmp"))
            os.replace(out.with_suffix(".tmp"), out)


def test_a_killed_training_loses_nothing_since_its_last_state(
    dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "state.pt"
    process = multiprocessing.get_context("fork").Process(
        target=train_until_killed, args=(dataset, out)
    )
    process.start()
    assert process.pid is not None
    while process.is_alive() and (not out.exists() or torch.load(out)[0] < 6):
        process.join(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    step, state = torch.load(out, weights_only=True)
    with module(dataset, packed=True, num_workers=2) as data:
        expected = take(data.train_dataloader(), step + 4)[step:]
    with module(dataset, packed=True, num_workers=2) as data:
        data.load_state_dict(state)
        assert take(data.train_dataloader(), 4) == expected
