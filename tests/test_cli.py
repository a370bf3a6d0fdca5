"""The command line: what it imports, prints and exits with."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_source import NEVA_PREP, run, write_source

from neva_prep import __version__
from neva_prep.cli import COMMANDS

HEAVY = ("numpy", "torch", "megatron", "PIL", "rich", "transformers", "msgspec", "yaml")


def modules_after(code: str) -> set[str]:
    """Top-level modules that are imported once some code has run in a fresh interpreter."""
    tail = "\nimport sys; print('\\n'.join(sorted({m.partition('.')[0] for m in sys.modules})))"
    ended = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.splitlines())


def command(*arguments: str) -> str:
    """Python code that runs a command as its entry point does."""
    return (
        f"import sys; sys.argv = {['neva-prep', *arguments]!r}\n"
        "from neva_prep.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, 4), end.code"
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Ten records, one of which is rejected."""
    written, images = write_source(tmp_path_factory.mktemp("source"), 10, bad=[4])
    return str(written), str(images)


@pytest.mark.parametrize("code", ["import neva_prep", command("--help"), command("--version")])
def test_help_and_import_load_nothing_heavy(code: str) -> None:
    assert not modules_after(code).intersection(HEAVY)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_converting_loads_neither_torch_nor_energon(
    source: tuple[str, str], tmp_path: Path, workers: str
) -> None:
    out = str(tmp_path / "out")
    options = ("--out", out, "--workers", workers, "--shard-count", "2", "--quiet")
    loaded = modules_after(command("convert", source[0], "--images", source[1], *options))
    assert not loaded.intersection({"torch", "megatron", "transformers", "datasets"})
    assert {"numpy", "msgspec"} <= loaded
    assert not modules_after(command("verify", out)).intersection({"torch", "megatron"})


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.cpu_count() == 1,
    reason="skipped: it counts threads of Linux, on more than one core",
)
def test_a_command_leaves_other_cores_alone(source: tuple[str, str], tmp_path: Path) -> None:
    said = tmp_path / "threads"
    code = command("convert", source[0], "--images", source[1], "--dry-run", "--quiet")
    code += f"\nimport os; open({str(said)!r}, 'w').write(str(len(os.listdir('/proc/self/task'))))"
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    # NumPy's BLAS would start a thread for each.
    assert said.read_text() == "1"


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of the processor: what else the machine does at the time is not measured.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


def test_every_command_is_listed_and_has_help() -> None:
    listed = run("--help").stdout
    for name, (_, line) in COMMANDS.items():
        assert f"{name} " in listed and line in listed
        ended = run(name, "--help")
        assert ended.returncode == 0 and f"Usage: neva-prep {name}" in ended.stdout


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout == f"neva-prep, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("konvert",), "No such command 'konvert'"),
        (("convert", "--no-such-option"), "No such option"),
        (("convert",), "give the SOURCE"),
        (("convert", "source.json"), "--out"),
        (("convert", "source.json", "--out", "o", "--shard-size", "huge"), "huge"),
        (("convert", "source.json", "--out", "o", "--split", "train=x"), "train=x"),
        (("convert", "source.json", "--out", "o", "--workers", "0"), "--workers"),
        (("convert", "source.json", "--out", "o", "--resume", "--overwrite"), "--overwrite"),
        (("convert", "source.json", "--out", "o", "--check", "smell"), "smell"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    ended = run(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr and "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_command_shows_the_help() -> None:
    ended = run()
    assert ended.returncode in (0, 2)
    assert "Commands:" in ended.stdout + ended.stderr


def test_exit_codes_tell_how_it_went(source: tuple[str, str], tmp_path: Path) -> None:
    whole, images = write_source(tmp_path / "whole", 4)
    convert = ("convert", whole, "--images", images, "--out")
    assert run(*convert, tmp_path / "good").returncode == 0
    assert run(*convert, tmp_path / "good").returncode == 2  # Refuses to overwrite.
    assert run(*convert, tmp_path / "good", "--resume").returncode == 0
    assert run("verify", tmp_path / "good").returncode == 0
    part = run("convert", source[0], "--images", source[1], "--out", tmp_path / "part")
    assert part.returncode == 4
    lost = run("convert", source[0], "--images", tmp_path, "--out", tmp_path / "o", "--limit", "2")
    assert lost.returncode == 3  # Nothing was converted.
    assert run("convert", tmp_path / "none.json", "--out", tmp_path / "o2").returncode == 3
    shard = tmp_path / "good" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-10_000])
    assert run("verify", tmp_path / "good").returncode == 3


def test_json_is_all_that_stdout_holds(source: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run("convert", source[0], "--images", source[1], "--out", out, "--json")
    report = json.loads(ended.stdout)
    assert (report["schema_version"], report["records"], report["samples"]) == (1, 10, 9)
    assert report["rejections"] == {"missing_image": 1}
    assert ended.stderr == ""
    checked = json.loads(run("verify", out, "--json").stdout)
    assert (checked["schema_version"], checked["is_whole"], checked["samples"]) == (1, True, 9)


def test_json_is_whole_where_nothing_was_converted(source: tuple[str, str], tmp_path: Path) -> None:
    options = ("--images", tmp_path, "--out", tmp_path / "out", "--limit", "2", "--json")
    ended = run("convert", source[0], *options)
    assert ended.returncode == 3
    assert json.loads(ended.stdout)["rejections"] == {"missing_image": 2}
    assert "--images" in ended.stderr


def test_the_report_is_on_stdout_and_hints_are_on_stderr(
    source: tuple[str, str], tmp_path: Path
) -> None:
    ended = run("convert", source[0], "--images", source[1], "--out", tmp_path / "out")
    assert "records   10" in ended.stdout and "missing_image" in ended.stdout
    assert "--retry" in ended.stderr and "--retry" not in ended.stdout


def test_quiet_prints_nothing(source: tuple[str, str], tmp_path: Path) -> None:
    ended = run("convert", source[0], "--images", source[1], "--out", tmp_path / "out", "--quiet")
    assert (ended.returncode, ended.stdout, ended.stderr) == (4, "", "")


def test_no_escape_codes_where_there_is_no_terminal(
    source: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert = ("convert", source[0], "--images", source[1], "--out", out)
    for arguments in (convert, ("verify", out), ("convert", "--help")):
        ended = run(*arguments, TERM="xterm-256color")
        assert "\x1b" not in ended.stdout + ended.stderr
        assert "\r" not in ended.stdout + ended.stderr


def _on_a_terminal(arguments: list[str], **environment: str) -> str:
    """All that a command prints to a terminal."""
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [NEVA_PREP, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            got = os.read(master, 65536)
        except OSError:  # The other side has closed.
            break
        if not got:
            break
        shown += got
    process.wait()
    os.close(master)
    return shown.decode()


def test_no_color_is_respected_on_a_terminal(source: tuple[str, str], tmp_path: Path) -> None:
    arguments = ["convert", source[0], "--images", source[1], "--overwrite"]
    arguments += ["--out", str(tmp_path / "out")]
    colors = ("\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[1;33m", "\x1b[1;36m")
    assert any(color in _on_a_terminal(arguments) for color in colors)
    plain = _on_a_terminal(arguments, NO_COLOR="1")
    assert not any(color in plain for color in colors)
    assert "missing_image" in plain


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"]])
def test_a_reader_that_leaves_early_causes_no_traceback(arguments: list[str]) -> None:
    _closed_early(arguments)


def test_a_reader_of_a_report_may_leave_early(source: tuple[str, str], tmp_path: Path) -> None:
    convert = ["convert", source[0], "--images", source[1]]
    for number, more in enumerate(([], ["--json"])):
        out = tmp_path / f"out-{number}"
        _closed_early([*convert, "--out", str(out), *more])
        assert (out / ".nv-meta" / ".info.json").exists()


def _closed_early(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [NEVA_PREP, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr
    assert ended.returncode in (0, 1, 4)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_commands(shell: str) -> None:
    script = run(_NEVA_PREP_COMPLETE=f"{shell}_source")
    assert script.returncode == 0 and "_NEVA_PREP_COMPLETE" in script.stdout
    if shell == "bash":
        answer = run(
            _NEVA_PREP_COMPLETE="bash_complete", COMP_WORDS="neva-prep con", COMP_CWORD="1"
        )
        assert answer.stdout.split() == ["plain,convert"]


def test_an_option_of_convert_is_completed() -> None:
    answer = run(
        _NEVA_PREP_COMPLETE="bash_complete",
        COMP_WORDS="neva-prep convert --shard-c",
        COMP_CWORD="2",
    )
    assert answer.stdout.split() == ["plain,--shard-count"]


def test_the_group_can_be_called_from_python() -> None:
    from neva_prep.cli import root

    ended = CliRunner().invoke(root, ["convert", "--help"])
    assert ended.exit_code == 0 and "SOURCE" in ended.output


def test_help_has_every_exit_code_of_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (codes,) = re.findall(r"0 ok, 1 failure.*?\.", readme, re.DOTALL)
    listed = run("--help").stdout
    assert re.findall(r"\b\d+\b", codes) == re.findall(
        r"\b\d+\b", listed[listed.index("Exit codes") :]
    )
