"""The built wheel: what it holds, and that it works away from the repository."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small_source import write_source

from neva_prep import __version__

ROOT = Path(__file__).parents[1]
FOLDERS = ("dataprep", "loaders", "templates", "trainer")


def _run(*command: str | os.PathLike[str], cwd: Path) -> str:
    ended = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline, from a copy of what the repository holds."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    for path in [*ROOT.glob("*.py"), ROOT / "py.typed"]:
        shutil.copy(path, copy)
    for name in (*FOLDERS, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    _run(sys.executable, *build, cwd=copy)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_template_and_no_test(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"neva_prep/{path.name}" for path in ROOT.glob("*.py")} | {"neva_prep/py.typed"}
    for folder in FOLDERS:
        for pattern in ("*.py", "*.jinja", "*.html", "*.css", "*.js", "*.svg"):
            found = (ROOT / folder).rglob(pattern)
            expected |= {f"neva_prep/{path.relative_to(ROOT).as_posix()}" for path in found}
    assert any(name.endswith(".jinja") for name in expected)
    assert held == expected


def test_the_wheel_names_its_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" in name]
        text = {name.partition("/")[2]: archive.read(name).decode() for name in names}
    assert "neva-prep = neva_prep.cli:main" in text["entry_points.txt"]
    assert f"Version: {__version__}\n" in text["METADATA"]
    assert "Apache License" in text["licenses/LICENSE"]


def test_the_installed_wheel_converts_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    _run(sys.executable, *install, cwd=tmp_path)
    # What it depends on comes from here, but the package itself must be the installed one.
    (packages,) = (venv / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    where = _run(python, "-c", "import neva_prep; print(neva_prep.__file__)", cwd=tmp_path)
    assert where.strip() == str(packages / "neva_prep" / "__init__.py")
    command = venv / "bin" / "neva-prep"
    assert _run(command, "--version", cwd=tmp_path) == f"neva-prep, version {__version__}\n"
    source, images = write_source(tmp_path, 4)
    _run(command, "convert", source, "--images", images, "--out", "shards", cwd=tmp_path)
    assert (tmp_path / "shards" / ".nv-meta" / ".info.json").exists()
    _run(command, "verify", "shards", cwd=tmp_path)
    list_templates = "from neva_prep.templates import list_templates; print(list_templates())"
    assert "'v1'" in _run(python, "-c", list_templates, cwd=tmp_path)
