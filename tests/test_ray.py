"""The Ray engine on a cluster of two nodes on this machine: the same bytes, whatever dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

RECORDS = 210
BAD = (4, 40, 130)
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "memory": 2 << 30}
OPTIONS: dict[str, Any] = {"shard_count": 25, "split": {"train": 0.8, "val": 0.2}, "shuffle": 3}


class Once(Watch):
    """Does something once, when the first so many records are done."""

    def __init__(self, records: int, act: Callable[[], None]) -> None:
        self.records, self.act = records, act
        self.seen: list[int] = []

    def update(self, records: int, written: int, rejected: int) -> None:
        self.seen.append(records)
        if records >= self.records and self.act is not None:
            act, self.act = self.act, lambda: None
            act()


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


class KillsNode(Watch):
    """Kills a node while it writes shards: they are kept from going on until it is dead."""

    def __init__(self, out: Path, cluster: Any) -> None:
        self.out, self.cluster = out, cluster
        self.node = cluster.add_node(**NODE)
        self.raylet = psutil.Process(self.node.all_processes["raylet"][0].process.pid)
        self.held: list[Any] = []

    def begin(self, stage: str, records: int | None) -> None:
        # As a process of another machine would that was given up and still writes.
        for number in range(9 if stage == "write" else 0):
            file = (self.out / f"train-{number:06d}.tar.tmp").open("wb")
            fcntl.flock(file, fcntl.LOCK_EX)
            self.held.append(file)

    def update(self, records: int, written: int, rejected: int) -> None:
        if self.held and self._writes():
            self.cluster.remove_node(self.node, allow_graceful=False)
            for file in self.held:
                file.close()
            self.held.clear()

    def _writes(self) -> bool:
        """Whether a task is under way on the node: `ray::_write_shard` is its process's name."""
        return any("_write_shard" in " ".join(p.cmdline()) for p in self.raylet.children())


def test_the_same_bytes_and_progress_to_the_last_record(
    cluster: Any, given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    watch = Once(RECORDS + 1, lambda: None)
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
    def interrupt() -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(*given, out, on_ray(), Once(1, interrupt))
    assert not list(out.glob("*.tmp"))
    left = sorted(path.name for path in out.glob("*.tar"))
    time.sleep(1)
    assert sorted(path.name for path in out.glob("*.tar")) == left
    convert(*given, out, ConvertOptions(**OPTIONS, check="decode", resume=True))
    assert tree(out) == expected


def test_a_task_tells_its_error_as_a_worker_does(
    cluster: Any, given: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=r"record \d+ .* does not exist") as caught:
        convert(*given, tmp_path / "out", on_ray(on_error="fail"))
    assert caught.value.reason == "missing_image"
    assert "Traceback" not in str(caught.value)


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
