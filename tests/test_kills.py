"""Conversions killed at random moments, then resumed: the same bytes, nothing half-made."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from small_source import NEVA_PREP, fix_images, run, tree, write_source

RECORDS = 420
BAD = tuple(number for number in range(RECORDS) if number % 23 == 4 and number % 7 not in (3,))
INFO, JOURNAL = ".nv-meta/.info.json", ".journal"
KILLS = 20
Kill = Callable[[subprocess.Popen[str]], None]


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a conversion in a process group of its own."""
    return subprocess.Popen(
        [NEVA_PREP, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background of a shell passes on that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def children(pid: int) -> list[int]:
    """Process ids of a process's children."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(child) for child in listed.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def kill_group(process: subprocess.Popen[str]) -> None:
    # It may have come to its end a moment before.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def kill_parent(process: subprocess.Popen[str]) -> None:
    process.kill()


def kill_worker(process: subprocess.Popen[str]) -> None:
    """Kill one worker; the parent, where there is none."""
    for victim in children(process.pid)[:1] or [process.pid]:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()


def begun(out: Path) -> bool:
    return (out / JOURNAL / "lock").exists()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.002)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, stdout, stderr. Pipes close when the last worker has gone: none lives on."""
    output, messages = process.communicate(timeout=30)
    return process.returncode, output, messages


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    written, images = write_source(tmp_path_factory.mktemp("source"), RECORDS, bad=BAD)
    return str(written), str(images)


@pytest.fixture(scope="module")
def command(source: tuple[str, str]) -> list[str]:
    sizes = ["--split", "train=0.8,val=0.2", "--shard-count", "12"]
    return ["convert", source[0], "--images", source[1], *sizes, "--quiet"]


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the same dataset, made in one go."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(*command, "--out", out, "--workers", "1").returncode == 4
    return tree(out)


def test_what_was_killed_at_random_and_resumed_has_the_same_bytes(
    command: list[str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    chance, kills, round_ = random.Random(20), 0, 0
    kinds: list[Kill] = [kill_group, kill_parent, kill_worker]
    while kills < KILLS:
        out = tmp_path / f"out-{round_}"
        round_ += 1
        assert round_ <= 3 * KILLS, "the conversions end before they are killed"
        more = ["--out", str(out), "--workers", "2"]
        code, attempts = -1, 0
        while code not in (0, 4):
            process = start([*command, *more])
            wait_for(lambda out=out: begun(out), process)  # type: ignore[misc]
            if kills < KILLS and attempts < 4:
                time.sleep(chance.uniform(0, 0.35) + 0.15 * ("--resume" in more))
                kinds[kills % 3](process)
            code, _, messages = end(process)
            if code not in (0, 4):
                kills, attempts = kills + 1, attempts + 1
                assert "Traceback" not in messages
                if (out / INFO).exists():
                    now = tree(out)
                    assert {name: now.get(name) for name in undisturbed} == undisturbed
                more[4:] = ["--resume"]
        assert tree(out) == undisturbed
        shutil.rmtree(out)


def test_nothing_goes_on_writing_when_only_the_parent_is_killed(
    command: list[str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    process = start([*command, "--out", str(tmp_path / "out"), "--workers", "2"])
    wait_for(lambda: len(children(process.pid)) == 2, process)
    workers = children(process.pid)
    process.kill()
    end(process)
    assert len(workers) == 2
    # Their files are closed by now; the processes themselves end a moment later.
    deadline = time.monotonic() + 2
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in workers if _runs(pid)]
    before = tree(tmp_path / "out")
    time.sleep(0.2)
    assert tree(tmp_path / "out") == before


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_death_of_a_worker_is_told_with_the_way_to_go_on(
    command: list[str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    process = start([*command, "--out", str(tmp_path / "out"), "--workers", "2"])
    wait_for(lambda: len(children(process.pid)) == 2, process)
    kill_worker(process)
    code, _, messages = end(process)
    assert code in (1, 3)
    assert "a worker process died" in messages and "--resume" in messages
    assert messages.count("\n") == 1
    assert run(*command, "--out", tmp_path / "out", "--resume").returncode == 4
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("finished", [0, 1, 9])
def test_control_c_stops_cleanly_and_tells_how_to_resume(
    command: list[str],
    undisturbed: dict[str, str],
    tmp_path: Path,
    workers: int,
    finished: int,
) -> None:
    out = tmp_path / "out"
    process = start([*command, "--out", str(out), "--workers", str(workers)])
    # Planning, the first shard, or a quarter of all shards.
    wait_for(lambda: begun(out) and len(list(out.glob("*.tar"))) >= finished, process)
    os.killpg(process.pid, signal.SIGINT)
    code, output, messages = end(process)
    assert code == 130, messages
    assert output == ""
    assert messages.count("\n") == 1
    assert messages.startswith("neva-prep: interrupted") and "--resume" in messages
    assert not (out / INFO).exists()
    assert run(*command, "--out", out, "--resume").returncode == 4
    assert tree(out) == undisturbed


def test_a_retry_that_was_killed_and_resumed_has_the_same_bytes(
    source: tuple[str, str], command: list[str], tmp_path: Path
) -> None:
    written, images = write_source(tmp_path, 150, bad=range(0, 150, 2))
    base, whole = tmp_path / "base", tmp_path / "whole"
    made = run("convert", written, "--images", images, "--out", base, "--shard-count", "10")
    assert made.returncode == 4
    fix_images(images, [number for number in range(0, 150, 2) if number % 7 != 3])
    retry = ["convert", "--quiet", "--workers", "2", "--retry"]
    shutil.copytree(base, whole)
    assert run(*retry, whole / "quarantine.jsonl").returncode == 0
    chance = random.Random(5)
    for number in range(4):
        out = tmp_path / f"out-{number}"
        shutil.copytree(base, out)
        process = start([*retry, str(out / "quarantine.jsonl")])
        wait_for(lambda out=out: begun(out), process)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.2))
        kill_group(process)
        if end(process)[0] == -signal.SIGKILL:
            _judge_killed_retry(tree(out), tree(base), tree(whole))
            ended = run(*retry, out / "quarantine.jsonl", "--resume")
            # One that was killed behind its end has nothing to go on with.
            ended_before = "holds no record to retry" in ended.stderr
            assert ended.returncode == 0 or ended_before, ended.stderr
        assert tree(out) == tree(whole)


def _judge_killed_retry(now: dict[str, str], old: dict[str, str], new: dict[str, str]) -> None:
    """With its commit marker the dataset is the old one or the new one, never between."""
    if INFO in now:
        expected = old if now[INFO] == old[INFO] else new
        assert {name: now.get(name) for name in expected} == expected
