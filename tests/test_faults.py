"""As SQLite tests itself: one run for every call that touches the output, with that call failing.

A fault is an errno, a death (SIGKILL) or a short write, at call number N of those that faults.c
counts: open, write, fsync, rename, ftruncate, unlink, mkdir under the output folder. After each one
the output must not look finished unless it is, the message must be one clear line, and --resume
must give the bytes of an undisturbed run.

Two sweeps are whole, the others take every second to fourth call; NEVA_PREP_ALL_FAULTS=1 makes all
of them whole.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from queue import SimpleQueue

import pytest
from small_source import NEVA_PREP, fix_images, run, tree, write_source

COUNT, KILL, SHORT = 0, -1, -2
BAD = (4, 5)
"""Records whose image is missing: one in each shard, both in quarantine."""
FINISHED = (0, 4)
INFO, MANIFEST, JOURNAL = ".nv-meta/.info.json", "neva-prep.json", ".journal"
ALL_FAULTS = bool(os.environ.get("NEVA_PREP_ALL_FAULTS"))


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at which call."""

    kind: int
    at: int
    sticky: bool = False


NO_FAULT = Fault(COUNT, 0)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    code: int
    message: str
    calls: list[str]
    """The counted calls, if asked for."""


class Runner:
    """A process that forks one `neva-prep` after the other."""

    def __init__(self, library: Path, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fault_runner.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(library)},
        )

    def run(self, out: Path, arguments: Sequence[str], fault: Fault, log: bool = False) -> Ended:
        """Run a command with a fault in what it does under `out`."""
        output = self.folder / "stderr"
        task = {
            "root": str(out),
            "at": fault.at,
            "kind": fault.kind,
            "sticky": int(fault.sticky),
            "log": log,
            "output": str(output),
            "arguments": list(arguments),
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Ended(answer["code"], output.read_text(), answer["calls"])

    def close(self) -> None:
        self._process.communicate(timeout=20)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled faults.c."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler: apt-get install gcc libc6-dev")
    built = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(source), "-ldl"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return built


@pytest.fixture(scope="module")
def runners(library: Path) -> Iterator[list[Runner]]:
    """Two, so that two cores are busy. They write to memory where the machine has such a folder."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="neva-prep-faults-", dir=memory) as folder:
        made = [Runner(library, Path(folder, str(number))) for number in range(2)]
        yield made
        for runner in made:
            runner.close()


@dataclass(frozen=True, slots=True)
class Scene:
    """A command, what it starts from, and what it must come to."""

    arguments: tuple[str, ...]
    """Of which `OUT` stands for the output folder."""
    base: Path | None
    """A dataset that is there before; None where the output folder does not exist."""
    expected: dict[str, str]
    """Hashes of the whole output of an undisturbed run."""
    calls: list[str]

    def command(self, out: Path, *more: str) -> list[str]:
        return [argument.replace("OUT", str(out)) for argument in (*self.arguments, *more)]

    def sweep(
        self,
        runners: list[Runner],
        kind: int,
        *,
        sticky: bool = False,
        step: int = 1,
        only: str = "",
    ) -> str:
        """What went wrong, over all faults of a kind; "" where everything held."""
        places = [n for n, call in enumerate(self.calls, start=1) if call.startswith(only)]
        assert places, "the fault library counted nothing"
        free: SimpleQueue[Runner] = SimpleQueue()
        for runner in runners:
            free.put(runner)

        def attempt(at: int) -> list[str]:
            runner = free.get()
            try:
                found = self.check(runner, Fault(kind, at, sticky))
            finally:
                free.put(runner)
            return [f"{_name(kind)} at {at} ({self.calls[at - 1]}): {line}" for line in found]

        with ThreadPoolExecutor(len(runners)) as pool:
            found = pool.map(attempt, places[:: 1 if ALL_FAULTS else step])
            return "\n".join(chain.from_iterable(found))

    def check(self, runner: Runner, fault: Fault) -> list[str]:
        """One run with a fault and one with --resume; what went wrong."""
        out = runner.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        if self.base:
            shutil.copytree(self.base, out)
        before = tree(out) if self.base else {}
        ended = runner.run(out, self.command(out), fault)
        found = self._judge(out, ended, fault, before)
        command = self.command(out, "--resume")
        if "--overwrite" in command:
            # Where the old dataset is untouched, nothing is there to go on with.
            untouched = _without_leftovers(tree(out)) == before
            command.remove("--resume" if untouched else "--overwrite")
        resumed = runner.run(out, command, NO_FAULT)
        if resumed.code not in FINISHED or resumed.message.count("\n") > 1:
            found.append(f"--resume exits with {resumed.code}: {resumed.message}")
        elif differing := _differences(tree(out), self.expected):
            found.append(f"after --resume these differ: {differing}")
        return found

    def _judge(self, out: Path, ended: Ended, fault: Fault, before: dict[str, str]) -> list[str]:
        found, now = [], tree(out)
        whole = not _differences(_without_leftovers(now), self.expected)
        if ended.code in FINISHED and not whole:
            differing = _differences(_without_leftovers(now), self.expected)
            found.append(f"exit {ended.code}, but these differ: {differing}")
        if ended.code not in FINISHED and fault.kind != KILL:
            found += _judge_message(ended, out)
        # What a loader takes for a dataset must be the old one or the whole of the new one.
        as_before = all(now.get(name) == content for name, content in before.items())
        if INFO in now and not whole and not (before and as_before):
            found.append(f"{INFO} is there, but not all of the dataset")
        if MANIFEST in now and not (out / JOURNAL).exists() and not whole and not as_before:
            found.append(f"{MANIFEST} is there without a journal, but not all of the dataset")
        return found


def hold(found: str) -> None:
    """Fail with all that was found, one line each."""
    if found:
        pytest.fail(found, pytrace=False)


def _judge_message(ended: Ended, out: Path) -> list[str]:
    lines = ended.message.splitlines()
    clear = len(lines) == 1 and lines[0].startswith("neva-prep: ") and str(out) in lines[0]
    helps = clear and ("--resume" in lines[0] or "cannot be read" in lines[0])
    if ended.code in (1, 3) and helps:
        return []
    return [f"exit {ended.code} with the message: {ended.message.strip()[-300:]!r}"]


def _without_leftovers(files: dict[str, str]) -> dict[str, str]:
    """Without the journal: when the marker is there, removing it is all that is left to do."""
    return {name: files[name] for name in files if not name.startswith(JOURNAL)}


def _differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _name(kind: int) -> str:
    return {KILL: "SIGKILL", SHORT: "a short write"}.get(kind) or errno.errorcode[kind]


def _scene(
    runner: Runner, folder: Path, arguments: tuple[str, ...], base: Path | None, exits: int
) -> Scene:
    out = folder / "expected"
    if base:
        shutil.copytree(base, out)
    command = [argument.replace("OUT", str(out)) for argument in arguments]
    ended = runner.run(out, command, NO_FAULT, log=True)
    assert ended.code == exits, ended.message
    return Scene(arguments, base, tree(out), ended.calls)


@pytest.fixture(scope="module")
def conversion(runners: list[Runner], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Six records in two shards; two of them are rejected."""
    folder = tmp_path_factory.mktemp("conversion")
    source, images = write_source(folder, 6, bad=BAD)
    options = ("--out", "OUT", "--shard-count", "3", "--workers", "1", "--quiet")
    arguments = ("convert", str(source), "--images", str(images), *options)
    return _scene(runners[0], folder, arguments, None, 4)


@pytest.fixture(scope="module")
def retrial(runners: list[Runner], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The same dataset, when one of the rejected records has got its image."""
    folder = tmp_path_factory.mktemp("retrial")
    source, images = write_source(folder, 6, bad=BAD)
    base = folder / "base"
    made = run("convert", source, "--images", images, "--out", base, "--shard-count", "3")
    assert made.returncode == 4, made.stderr
    fix_images(images, BAD[:1])
    arguments = ("convert", "--retry", "OUT/quarantine.jsonl", "--workers", "1", "--quiet")
    return _scene(runners[0], folder, arguments, base, 4)


@pytest.fixture(scope="module")
def replacement(runners: list[Runner], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A dataset of six shards that is overwritten with two."""
    folder = tmp_path_factory.mktemp("replacement")
    source, images = write_source(folder, 6)
    base = folder / "base"
    command = ("convert", str(source), "--images", str(images))
    made = run(*command, "--out", base, "--shard-count", "1")
    assert made.returncode == 0, made.stderr
    options = ("--out", "OUT", "--shard-count", "3", "--workers", "1", "--quiet", "--overwrite")
    return _scene(runners[0], folder, (*command, *options), base, 0)


def assert_one_error(said: str) -> None:
    """One line, behind the one that names the source's form, with the way out."""
    *before, error = said.splitlines()
    assert error.startswith("neva-prep: ") and "--resume" in error
    assert all("read as llava" in line for line in before) and len(before) <= 1


def test_every_kind_of_call_is_counted(conversion: Scene) -> None:
    kinds = {call.split()[0] for call in conversion.calls}
    assert kinds == {"open", "write", "fsync", "ftruncate", "rename", "unlink", "mkdir"}
    touched = {call.split()[-1] for call in conversion.calls}
    for path in ("/train-000001.tar.tmp", "/.nv-meta/index.sqlite.tmp", "/.nv-meta/.info.json"):
        assert path in touched


def test_any_call_may_fail_with_an_input_output_error(
    conversion: Scene, runners: list[Runner]
) -> None:
    hold(conversion.sweep(runners, errno.EIO))


def test_the_process_may_die_at_any_call(conversion: Scene, runners: list[Runner]) -> None:
    hold(conversion.sweep(runners, KILL))


def test_any_call_may_find_the_disk_full(conversion: Scene, runners: list[Runner]) -> None:
    hold(conversion.sweep(runners, errno.ENOSPC, step=4))


def test_the_disk_may_be_full_from_any_call_on(conversion: Scene, runners: list[Runner]) -> None:
    hold(conversion.sweep(runners, errno.ENOSPC, sticky=True, step=3))


def test_any_write_may_write_only_half(conversion: Scene, runners: list[Runner]) -> None:
    hold(conversion.sweep(runners, SHORT, only="write", step=2))


def test_any_call_of_a_retry_may_fail(retrial: Scene, runners: list[Runner]) -> None:
    hold(retrial.sweep(runners, errno.EIO, step=3))


def test_a_retry_may_die_at_any_call(retrial: Scene, runners: list[Runner]) -> None:
    hold(retrial.sweep(runners, KILL, step=2))


def test_an_overwrite_may_die_at_any_call_that_removes(
    replacement: Scene, runners: list[Runner]
) -> None:
    hold(replacement.sweep(runners, KILL, only="unlink"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_limit_on_the_size_of_files_is_told_and_resumed(tmp_path: Path, workers: str) -> None:
    source, images = write_source(tmp_path, 6, bad=BAD, padding=20_000)
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = ("convert", source, "--images", images, "--shard-count", "3", "--workers", workers)
    ended = subprocess.run(
        [NEVA_PREP, *map(str, command), "--out", str(out)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) in ((1, ""), (3, ""))
    assert f"{out}/train-00000" in ended.stderr and "File too large" in ended.stderr
    assert_one_error(ended.stderr)
    assert not (out / INFO).exists() and not (out / "train-000000.tar").exists()
    assert run(*command, "--out", out, "--resume").returncode == 4
    assert run(*command, "--out", whole).returncode == 4
    assert tree(out) == tree(whole)


@pytest.fixture
def tiny_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("tiny_disk", [8, 48, 112], indirect=True)
def test_a_full_disk_is_told_and_resumed_when_there_is_room(
    tmp_path: Path, tiny_disk: Path
) -> None:
    source, images = write_source(tmp_path, 6, bad=BAD, padding=20_000)
    out, whole = tiny_disk / "out", tmp_path / "whole"
    command = ("convert", source, "--images", images, "--shard-count", "3", "--workers", "1")
    ended = run(*command, "--out", out)
    assert ended.returncode in (1, 3), ended.stderr
    assert "No space left on device" in ended.stderr or "disk is full" in ended.stderr
    assert_one_error(ended.stderr)
    assert not (out / INFO).exists() and not (out / MANIFEST).exists()
    subprocess.run(["mount", "-o", "remount,size=1m", str(tiny_disk)], check=True)
    assert run(*command, "--out", out, "--resume").returncode == 4
    assert run(*command, "--out", whole).returncode == 4
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("tiny_disk", [8], indirect=True)
def test_a_disk_without_room_for_the_plan_is_told(tmp_path: Path, tiny_disk: Path) -> None:
    source, images = write_source(tmp_path, 400)
    ended = run("convert", source, "--images", images, "--out", tiny_disk / "out")
    assert ended.returncode in (1, 3), (ended.returncode, ended.stderr)
    assert "/.journal/plan.rows: cannot be written: No space left on device" in ended.stderr
    assert_one_error(ended.stderr)
