"""Streams that end before their time: with the program, by an error, by `close()`."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import members, write_dataset
from loader_help import conversations, keys_of, module, take

from neva_prep.errors import ConfigError, RecordError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversations(tmp_path_factory.mktemp("end") / "ds")


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


LEFT = {
    "at the end of the program": "batches = iter(data.val_dataloader()); next(batches)",
    "at the end of with": "with data:\n    batches = iter(data.val_dataloader()); next(batches)",
    "by an error in a step": """
def validate():
    batches = iter(data.val_dataloader())
    next(batches)
    raise RuntimeError("out of memory")
validate()""",
    "by an error in a loop over a generator": """
def some(batches):
    yield from batches
for batch in some(data.val_dataloader()):
    raise RuntimeError("out of memory")""",
    "beside training": """
batches = iter(data.val_dataloader()); next(batches)
stream = data.train_dataloader(); next(stream)""",
}


@pytest.mark.parametrize("how", LEFT)
def test_a_program_ends_at_once_whatever_pass_is_left(
    how: str, dataset: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        # What is called at the end is ordered by its first use, so some come before torch here.
        "import sys, tempfile, time, atexit\n"
        "folder = tempfile.TemporaryDirectory()\n"
        "began = []\n"
        "atexit.register(lambda: print('took', time.monotonic() - began[0], flush=True))\n"
        f"sys.path.insert(0, {os.fspath(Path(__file__).parent)!r})\n"
        "from loader_help import module\n"
        f"data = module({os.fspath(dataset)!r}, num_workers=2)\n"
        "try:\n"
        + "".join(f"    {line}\n" for line in LEFT[how].strip().splitlines())
        + "finally:\n    began.append(time.monotonic())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=40)
    assert done.returncode == ("error" in how), done.stderr
    assert "Exception ignored" not in done.stderr
    assert float(done.stdout.partition("took ")[2]) < 1.0


def test_closing_the_module_ends_passes_and_says_so(dataset: Path) -> None:
    with module(dataset, num_val_workers=2) as data:
        batches = iter(data.val_dataloader())
        others = iter(data.val_dataloader())
        next(batches), next(others)
        assert len(multiprocessing.active_children()) == 4
        start = time.monotonic()
        data.close()
        assert time.monotonic() - start < 1.0
        assert not multiprocessing.active_children()
        with pytest.raises(ConfigError, match="this pass of validation is closed"):
            next(batches)
        assert len(keys_of(data.val_dataloader())) == 7


def test_a_worker_that_gives_no_answer_is_killed(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.data import _utils

    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    with module(dataset, num_workers=1) as data:
        next(data.train_dataloader())
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, 19)  # SIGSTOP: it hears no SIGTERM either
    assert not worker.is_alive()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_another_stream_goes_on_from_the_last_state_or_from_the_start(
    num_workers: int, dataset: Path
) -> None:
    with module(dataset, num_workers=num_workers) as data:
        with data.train_dataloader() as stream:
            expected = take(stream, 6)
        with pytest.raises(ConfigError, match="its place went with its workers; call train_data"):
            data.state_dict()
        assert take(data.train_dataloader(), 2) == expected[:2]
        state = data.state_dict()
        take(data.train_dataloader(), 3)
        data.train_dataloader().close()
        assert take(data.train_dataloader(), 2) == expected[2:4]
        data.train_dataloader().close()
        assert data.train_dataloader().num_batches == 2
        assert take(data.train_dataloader(), 4) == expected[2:]
        data.close()
        assert take(data.train_dataloader(), 1) == expected[:1]
        data.load_state_dict(state)
        data.train_dataloader().close()
        assert take(data.train_dataloader(), 1) == expected[2:3]


def test_training_may_begin_again_after_too_many_skips(tmp_path: Path) -> None:
    shard = {f"{n:09d}": members(n) for n in range(20)}
    shard["000000009"][0] = ("000.jpg", b"no image")
    path = write_dataset(tmp_path / "ds", {"train-000000.tar": shard})
    with module(path, max_skip_ratio=0.0, shuffle_buffer_size=None) as data:
        for _ in range(2):
            with pytest.raises(RecordError, match="more than max_skip_ratio=0"):
                take(data.train_dataloader(), 10)


def with_bad_ends(root: Path, bad: tuple[int, ...] = (8, 9, 18, 19)) -> Path:
    """20 samples of validation; those at the end of each half are bad."""
    shard = {f"{n:09d}": members(n) for n in range(20)}
    for number in bad:
        shard[f"{number:09d}"][0] = ("000.jpg", b"no image")
    train = {f"{n:09d}": members(n) for n in range(20, 24)}
    return write_dataset(root, {"train-000000.tar": train, "val-000000.tar": shard})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_skips_behind_the_last_batch_are_counted_and_judged(
    num_workers: int, packed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_bad_ends(tmp_path / "ds")
    with module(path, packed=packed, num_workers=num_workers, max_skip_ratio=0.2) as data:
        found = keys_of(data.val_dataloader())
        report = data.skip_report("val")
    assert len(found) == report.delivered == 16
    assert report.skipped == {"not_an_image": 4}
    assert f"skipped: {path}: sample 0000000" in caplog.text
    with (
        module(path, packed=packed, num_workers=num_workers, max_skip_ratio=0.0) as data,
        pytest.raises(RecordError, match=r"samples were skipped, more than max_skip_ratio=0"),
    ):
        list(data.val_dataloader())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_with_bad_ends_still_make_as_many_batches(
    num_workers: int, packed: bool, tmp_path: Path
) -> None:
    path = with_bad_ends(tmp_path / "ds", bad=(7, 8, 9, 18, 19))
    batches, reports = [], []
    for rank in range(2):
        ranks = {"data_parallel_rank": rank, "data_parallel_size": 2, "max_skip_ratio": 0.5}
        with module(path, packed=packed, num_workers=num_workers, **ranks) as data:
            batches.append(list(data.val_dataloader()))
            reports.append(data.skip_report("val"))
    assert len(batches[0]) == len(batches[1])
    assert sorted(report.num_skipped for report in reports) == [2, 3]
    assert sum(report.delivered for report in reports) == 15
