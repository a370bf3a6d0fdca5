"""Tasks that write one dataset together: the same bytes as one conversion, and clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from convert_help import run_cli
from small_source import tree, write_source

from neva_prep.dataprep.convert import convert
from neva_prep.dataprep.journal import Journal
from neva_prep.dataprep.options import ConvertOptions
from neva_prep.dataprep.source import Source
from neva_prep.dataprep.task import Task, TaskReport, convert_task, parse_task
from neva_prep.errors import ConfigError, RecordError, ShardError

BAD = (4, 40)
OPTIONS: dict[str, Any] = {"shard_count": 9, "split": {"train": 0.8, "val": 0.2}, "shuffle": 1}
CHOICES = ("--shard-count", "9", "--split", "train=0.8,val=0.2", "--shuffle", "1")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_source(tmp_path_factory.mktemp("tasks"), 84, bad=BAD)


@pytest.fixture(scope="module")
def expected(given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole") / "out"
    convert(*given, out, ConvertOptions(**OPTIONS))
    return tree(out)


def do_task(given: tuple[Path, Path], out: Path, task: str, **options: Any) -> TaskReport:
    return convert_task(*given, out, ConvertOptions(**OPTIONS, **options), parse_task(task))


def finish(given: tuple[Path, Path], out: Path) -> None:
    convert(*given, out, ConvertOptions(**OPTIONS, finish=True))


def test_tasks_in_any_order_give_the_same_bytes(
    given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    reports = [do_task(given, out, f"{number}/4") for number in (2, 0, 3, 1)]
    assert not (out / ".nv-meta").exists()
    finish(given, out)
    assert tree(out) == expected
    assert sum(report.samples for report in reports) == 82
    assert sum(report.rejected for report in reports) == 2
    assert {report.were_there for report in reports} == {0}


def test_tasks_at_the_same_time_share_one_plan_and_the_lock(
    given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    source, images = given
    where = ("--images", images, "--out", tmp_path / "out", *CHOICES)
    with ThreadPoolExecutor(3) as pool:
        commands = [("convert", source, *where, "--task", f"{n}/3", "--json") for n in range(3)]
        ended = list(pool.map(lambda command: run_cli(*command), commands))
    assert [done.returncode for done in ended] == [0, 0, 0], [done.stderr for done in ended]
    assert sum(json.loads(done.stdout)["records"] for done in ended) == 84
    done = run_cli("convert", source, *where, "--finish", "--quiet")
    assert (done.returncode, done.stdout) == (4, "")
    assert tree(tmp_path / "out") == expected


def test_finish_names_what_is_missing_and_the_tasks_that_write_it(
    given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for number in (0, 2):
        do_task(given, out, f"{number}/4")
    missing = sorted(expected.keys() - tree(out).keys())
    missing = [name for name in missing if name.endswith(".tar")]
    with pytest.raises(ConfigError, match="--task 1/4 or --task 3/4, or with --resume") as caught:
        finish(given, out)
    assert missing and ", ".join(missing) in str(caught.value)
    convert(*given, out, ConvertOptions(**OPTIONS, resume=True))
    assert tree(out) == expected


def test_finish_before_any_task_leaves_nothing(given: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task has planned"):
        finish(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_that_runs_again_writes_nothing_anew(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    first = do_task(given, tmp_path / "out", "1/2")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    again = do_task(given, tmp_path / "out", "1/2")
    assert (again.were_there, again.samples) == (first.shards, first.samples)
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}


def test_only_the_first_task_reads_the_whole_source_and_plans(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_task(given, tmp_path / "out", "0/2")
    monkeypatch.setattr(Source, "fingerprint", lambda _: pytest.fail("read again"))
    monkeypatch.setattr("neva_prep.dataprep.prepare.make_plan", lambda *_: pytest.fail("planned"))
    do_task(given, tmp_path / "out", "1/2")


def test_a_task_of_another_source_or_with_other_options_is_refused(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    source, images = given
    do_task(given, tmp_path / "out", "0/2")
    with pytest.raises(ConfigError, match="differ: shuffle"):
        other = ConvertOptions(**{**OPTIONS, "shuffle": 2})
        convert_task(source, images, tmp_path / "out", other, parse_task("1/2"))
    changed = tmp_path / source.name
    changed.write_bytes(source.read_bytes().replace(b"What is 5?", b"What is 6?"))
    with pytest.raises(ConfigError, match="differ: source"):
        do_task((changed, images), tmp_path / "out", "1/2")


def test_nobody_finishes_while_a_task_writes_and_no_task_runs_beside_a_conversion(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neva_prep.dataprep.lock._WAIT_SECONDS", 0.1)
    out = tmp_path / "out"
    do_task(given, out, "0/2")
    task = Journal(out / ".journal", shared=True)
    try:
        with pytest.raises(ShardError, match="another conversion is writing here"):
            finish(given, out)
        do_task(given, out, "1/2")
    finally:
        task.close()
    whole = Journal(out / ".journal")
    try:
        with pytest.raises(ShardError, match="another conversion is writing here"):
            do_task(given, out, "0/2")
    finally:
        whole.close()


def test_a_task_waits_for_as_long_as_another_one_plans(
    given: tuple[Path, Path],
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neva_prep.dataprep.lock._WAIT_SECONDS", 0.1)
    out = tmp_path / "out"
    # A process that holds the journal alone, as one that plans does, for longer than the wait.
    code = (
        "import sys, time; from pathlib import Path; "
        "from neva_prep.dataprep.journal import Journal; "
        "held = Journal(Path(sys.argv[1]), shared=True); held.hold(shared=False); "
        "print('held', flush=True); time.sleep(1.0)"
    )
    planner = subprocess.Popen(
        [sys.executable, "-c", code, str(out / ".journal")], stdout=subprocess.PIPE, text=True
    )
    assert planner.stdout is not None and planner.stdout.readline() == "held\n"
    do_task(given, out, "0/1")
    assert planner.wait(10) == 0
    planner.stdout.close()
    finish(given, out)
    assert tree(out) == expected


def test_a_source_that_is_broken_is_told_by_each_task_and_can_be_mended(tmp_path: Path) -> None:
    source, images = write_source(tmp_path, 20)
    whole = source.read_bytes()
    source.write_bytes(whole[:-9])
    for number in (0, 1):
        with pytest.raises(RecordError, match="cut off"):
            do_task((source, images), tmp_path / "out", f"{number}/2")
    source.write_bytes(whole)
    for number in (0, 1):
        do_task((source, images), tmp_path / "out", f"{number}/2")
    finish((source, images), tmp_path / "out")
    convert(source, images, tmp_path / "once", ConvertOptions(**OPTIONS))
    assert tree(tmp_path / "out") == tree(tmp_path / "once")


def test_more_tasks_than_shards_and_a_finished_dataset(
    given: tuple[Path, Path], expected: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    reports = [do_task(given, out, f"{number}/13") for number in range(13)]
    assert sum(report.shards == 0 for report in reports) > 0
    finish(given, out)
    finish(given, out)
    assert tree(out) == expected
    with pytest.raises(ConfigError, match="finished dataset"):
        do_task(given, out, "0/13")


@pytest.mark.parametrize("text", ["8/8", "3", "a/b", "-1/4", "1/0", ""])
def test_a_task_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--task"):
        parse_task(text)


def test_the_shards_of_all_tasks_are_all_shards_once() -> None:
    shards: list[Any] = list(range(11))
    parts = [Task(number=number, count=4).shards_of(shards) for number in range(4)]
    found: list[Any] = [shard for part in parts for shard in part]
    assert sorted(found) == shards


@pytest.mark.parametrize("other", [("--overwrite",), ("--dry-run",), ("--finish",)])
def test_options_that_do_not_go_with_a_task_are_refused(
    given: tuple[Path, Path], tmp_path: Path, other: tuple[str, ...]
) -> None:
    source, images = given
    where = ("--images", images, "--out", tmp_path / "out")
    done = run_cli("convert", source, *where, "--task", "0/2", *other)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder_is_refused(given: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="tasks share a folder"):
        convert_task(*given, "s3://bucket/shards", ConvertOptions(), parse_task("0/2"))
