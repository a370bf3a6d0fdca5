"""The Ray engine on a cluster of two nodes on this machine: the same bytes, whatever dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from convert_help import run_cli
from handmade import picture
from small_source import tree, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.watch import Watch
from neva_prep.errors import ConfigError, RecordError

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.alone

RECORDS = 210
BAD = (4, 40, 130)
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "memory": 2 << 30}
OPTIONS: dict[str, Any] = {"shard_count": 25, "split": {"train": 0.8, "val": 0.2}, "shuffle": 3}


class Notes(Watch):
    """Notes the records that it is told of."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def update(self, records: int, written: int, rejected: int) -> None:
        self.seen.append(records)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and one more node, to which this process is connected."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    two = Cluster(head_node_args={**NODE, "include_dashboard": False})
    two.add_node(**NODE)
    ray.init(address=two.address, log_to_driver=False, logging_level="ERROR")
    yield two
    ray.shutdown()
    two.shutdown()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source whose images take a while to decode, some of them missing."""
    source, images = write_source(tmp_path_factory.mktemp("ray"), RECORDS, bad=BAD)
    large = picture(900, 900, "JPEG")
    for number in range(0, RECORDS, 7):
        (images / f"{number}.jpg").write_bytes(large)
    return source, images


@pytest.fixture(scope="module")
def expected(given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("local") / "out"
    convert(*given, out, ConvertOptions(**OPTIONS, check="decode", workers=2))
    return tree(out)


def on_ray(**options: Any) -> ConvertOptions:
    return ConvertOptions(**OPTIONS, check="decode", engine="ray", **options)


class HoldsShards(Watch):
    """Keeps tasks from going on, as a process would that was given up and still writes."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.held: list[Any] = []

    def begin(self, stage: str, records: int | None) -> None:
        for number in range(9 if stage == "write" else 0):
            file = (self.out / f"train-{number:06d}.tar.tmp").open("wb")
            fcntl.flock(file, fcntl.LOCK_EX)
            self.held.append(file)

    def release(self) -> None:
        for file in self.held:
            file.close()
        self.held.clear()


class KillsNode(HoldsShards):
    """Kills a node while it writes shards."""

    def __init__(self, out: Path, cluster: Any) -> None:
        super().__init__(out)
        self.cluster = cluster
        self.node = cluster.add_node(**NODE)
        self.raylet = psutil.Process(self.node.all_processes["raylet"][0].process.pid)

    def update(self, records: int, written: int, rejected: int) -> None:
        if self.held and _writes(self.raylet):
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.release()


class Interrupts(HoldsShards):
    """Presses Ctrl-C while a node writes shards."""

    def update(self, records: int, written: int, rejected: int) -> None:
        raylets = (p for p in psutil.process_iter(["name"]) if p.info["name"] == "raylet")
        if any(_writes(raylet) for raylet in raylets):
            raise KeyboardInterrupt


def _writes(raylet: psutil.Process) -> bool:
    """Whether a task is under way on a node: `ray::_write_shard` is its process's name."""
    return any("_write_shard" in " ".join(p.cmdline()) for p in raylet.children())


def test_the_same_bytes_and_progress_to_the_last_record(
    cluster: Any, given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    watch = Notes()
    report = convert(*given, tmp_path / "out", on_ray(), watch)
    assert (report.samples, report.rejected) == (RECORDS - 3, 3)
    assert tree(tmp_path / "out") == expected
    assert watch.seen[-1] == RECORDS and watch.seen == sorted(watch.seen)


def test_the_command_joins_a_cluster_by_its_address(
    cluster: Any, given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    source, images = given
    arguments = ("--images", images, "--out", tmp_path / "out", "--shard-count", "25")
    choices = ("--split", "train=0.8,val=0.2", "--shuffle", "3", "--check", "decode", "--quiet")
    where = ("--engine", "ray", "--ray-address", cluster.address)
    done = run_cli("convert", source, *arguments, *choices, *where)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert tree(tmp_path / "out") == expected


def test_a_node_lost_in_the_middle_changes_nothing(
    cluster: Any, given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    watch = KillsNode(tmp_path / "out", cluster)
    convert(*given, tmp_path / "out", on_ray(), watch)
    assert not watch.held and not watch.raylet.is_running()
    assert tree(tmp_path / "out") == expected


def test_an_interrupt_ends_the_tasks_and_leaves_what_resume_needs(
    cluster: Any, given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    watch = Interrupts(out)
    with pytest.raises(KeyboardInterrupt):
        convert(*given, out, on_ray(), watch)
    left = sorted(path.name for path in out.glob("train-*.tar"))
    watch.release()
    time.sleep(0.5)
    assert sorted(path.name for path in out.glob("train-*.tar")) == left == []
    convert(*given, out, ConvertOptions(**OPTIONS, check="decode", resume=True))
    assert tree(out) == expected


def test_a_task_tells_its_error_as_a_worker_does(
    cluster: Any, given: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=r"record \d+ .* does not exist") as caught:
        convert(*given, tmp_path / "out", on_ray(on_error="fail"))
    assert caught.value.reason == "missing_image"
    assert "Traceback" not in str(caught.value)


def test_tasks_are_given_up_even_while_they_begin(
    cluster: Any, given: tuple[Path, Path], tmp_path: Path
) -> None:
    # Ray ends the whole process where a task is cancelled while it is handed to its worker.
    for number in range(12):
        options = OPTIONS | {"shard_count": 5, "shuffle": number}
        with pytest.raises(RecordError, match="does not exist"):
            convert(
                *given,
                tmp_path / str(number),
                ConvertOptions(**options, check="decode", engine="ray", on_error="fail"),
            )


def test_a_node_that_does_not_see_the_folder_tells_what_it_needs(tmp_path: Path) -> None:
    from neva_prep.dataprep.engines.job import Job
    from neva_prep.dataprep.engines.on_ray import _write_shard
    from neva_prep.dataprep.plan import ROW, ShardPlan

    job = Job(
        source=tmp_path / "there.json",
        source_name="there.json",
        form="llava",
        images=str(tmp_path),
        options=ConvertOptions(),
        out=tmp_path / "elsewhere",
        journal=tmp_path / "elsewhere/journal",
    )
    shard = ShardPlan("train-000000.tar", "train", 0, 0)
    with pytest.raises(ConfigError, match=r"elsewhere: the node .* does not see .* --spool"):
        _write_shard(job, None, 0, shard, np.empty(0, ROW))


def test_nobody_is_told_that_ray_is_used(cluster: Any) -> None:
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()


def test_a_task_that_no_node_has_memory_for_is_refused(
    cluster: Any,
    given: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neva_prep.dataprep.engines.on_ray.TASK_BYTES", 1 << 50)
    with pytest.raises(ConfigError, match=r"none of the \d nodes offers"):
        convert(*given, tmp_path / "out", on_ray())


def test_an_address_where_nobody_listens_is_told_at_once(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    source, images = given
    where = ("--images", images, "--out", tmp_path / "out", "--engine", "ray")
    done = run_cli("convert", source, *where, "--ray-address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "no Ray cluster answers" in done.stderr and "Traceback" not in done.stderr


def test_an_address_without_the_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="--engine ray"):
        ConvertOptions(ray_address="auto")
