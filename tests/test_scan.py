"""Planning with several processes: the same plan, the same errors, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from small_source import write_source

from neva_prep.dataprep import scan as scanning
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.plan import ROW, Plan, make_plan, read_rows
from neva_prep.dataprep.source import open_source
from neva_prep.dataprep.stores.open import open_images
from neva_prep.errors import RecordError

RECORDS = 203


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small source is read as a large one is."""
    monkeypatch.setattr(scanning, "_CHUNK", 10)
    monkeypatch.setattr(scanning, "_POOL_BYTES", 0)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source with repeated ids and images, and records without an id."""
    source, images = write_source(tmp_path_factory.mktemp("source"), RECORDS, bad=(4,))
    rows = json.loads(source.read_text())
    for number in (50, 51, 120):
        del rows[number]["id"]
    rows[60]["id"] = rows[7]["id"]
    rows[61]["image"] = rows[8]["image"]
    source.write_text(json.dumps(rows))
    return source, images


def plan(given: tuple[Path, Path], folder: Path, **options: Any) -> tuple[Plan, bytes]:
    source, images = given
    folder.mkdir(exist_ok=True)
    keep = options.pop("keep", None)
    store = open_images(str(images), folder)
    chosen = ConvertOptions(shard_count=20, split={"train": 0.7, "val": 0.3}, **options)
    made = make_plan(open_source(source), store, chosen, folder / "plan.rows", keep=keep)
    return made, (folder / "plan.rows").read_bytes()


@pytest.mark.parametrize("shuffle", [None, 5])
@pytest.mark.parametrize("limit", [None, 101])
def test_any_number_of_processes_makes_the_same_plan(
    given: tuple[Path, Path], tmp_path: Path, shuffle: int | None, limit: int | None
) -> None:
    one, one_rows = plan(given, tmp_path / "1", workers=1, shuffle=shuffle, limit=limit)
    three, three_rows = plan(given, tmp_path / "3", workers=3, shuffle=shuffle, limit=limit)
    assert msgspec.to_builtins(one) == msgspec.to_builtins(three)
    assert one_rows == three_rows and len(one_rows) == (limit or RECORDS) * ROW.itemsize
    assert one.duplicate_ids == 1 and one.repeated_images == 1
    assert one.duplicate_examples == ["records 7, 60"]


def test_rows_say_where_each_record_lies_and_how_large_its_sample_gets(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    made, _ = plan(given, tmp_path, workers=2, shuffle=1)
    source, images = given
    data, records = source.read_bytes(), json.loads(source.read_text())
    seen = []
    for shard in made.shards:
        for ordinal, offset, length, blocks in read_rows(tmp_path / "plan.rows", shard).tolist():
            record = json.loads(data[offset : offset + length])
            assert record == records[ordinal]
            paths = record.get("image", [])
            files = [images / path for path in ([paths] if isinstance(paths, str) else paths)]
            least = length + sum(file.stat().st_size for file in files if file.exists())
            assert least < blocks * 512
            seen.append(ordinal)
    assert sorted(seen) == list(range(RECORDS))


def test_what_is_left_out_keeps_the_ordinals_of_the_rest(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    keep = np.arange(RECORDS) % 3 == 1
    made, rows = plan(given, tmp_path / "1", workers=2, keep=keep, shuffle=2)
    assert (made, rows) == plan(given, tmp_path / "2", workers=1, keep=keep, shuffle=2)
    ordinals = np.frombuffer(rows, ROW)["ordinal"]
    assert sorted(ordinals.tolist()) == np.flatnonzero(keep).tolist()
    assert made.records == RECORDS


def test_a_source_that_breaks_off_is_told_and_no_file_is_left(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.json"
    cut.write_bytes(given[0].read_bytes()[:-40])
    with pytest.raises(RecordError, match="cut off"):
        plan((cut, given[1]), tmp_path / "plan", workers=2)
    assert not list((tmp_path / "plan").iterdir())


def test_an_interrupt_ends_the_processes(given: tuple[Path, Path], tmp_path: Path) -> None:
    def interrupt(records: int) -> None:
        if records > 60:
            raise KeyboardInterrupt

    source, images = given
    store = open_images(str(images), tmp_path)
    options = ConvertOptions(workers=2)
    with pytest.raises(KeyboardInterrupt):
        make_plan(open_source(source), store, options, tmp_path / "plan.rows", progress=interrupt)
    assert not list(tmp_path.iterdir())
