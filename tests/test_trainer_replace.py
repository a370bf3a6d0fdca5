"""What an import or export replaces is there until its successor is, whenever one is killed."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from killed import run_killed

from neva_prep.errors import ConfigError
from neva_prep.trainer import NevaModel, hf_import, hf_write, import_ckpt, one_rank, saved

Write = Callable[[str, bool], object]


def whole(text: str) -> dict[str, str]:
    """A model of which all files have the same text."""
    return {name: text for name in ("a", "b", "c")}


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(params=["import", "export"])
def write(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a model of a text to `out/model`; the text `broken` fails midway."""
    given = ""

    def write_files(first: object, second: Path, *rest: Path, **named: object) -> None:
        folder = rest[0] if rest else second
        folder.mkdir(parents=True)
        for name, text in whole(given).items():
            if text == "broken" and name == "c":
                raise ConfigError("broken")
            (folder / name).write_text(text)

    monkeypatch.setattr(hf_import, "_import_neva", write_files)
    monkeypatch.setattr(hf_write, "write_hf_folder", write_files)
    monkeypatch.setattr(hf_import, "stored_precision", lambda checkpoint: "fp32")
    # A process that is forked off has none of the threads of its ranks.
    monkeypatch.setattr(one_rank, "one_rank", nullcontext)
    monkeypatch.setattr(saved, "checkpoint_config", lambda checkpoint: None)
    monkeypatch.setattr(saved, "load_merged", lambda stages, checkpoint: None)
    monkeypatch.setattr(NevaModel, "build", lambda model, compute: None)
    source, target = tmp_path / "source", tmp_path / "out/model"
    (source / "context").mkdir(parents=True)
    (source / "context/lora.json").write_text(json.dumps({}))

    def made(text: str, overwrite: bool) -> object:
        nonlocal given
        given = text
        if request.param == "import":
            return import_ckpt(None, source, target, overwrite=overwrite)
        return saved.export_run(source, target, overwrite=overwrite)

    return made


def test_a_model_is_there_whenever_its_replacement_is_killed(write: Write, tmp_path: Path) -> None:
    target = tmp_path / "out/model"
    write("first", False)
    kills = 0
    while run_killed(kills + 1, lambda: write("second", True)):
        kills += 1
        # The next one finds a whole model, and fails: that model stays.
        with pytest.raises(ConfigError, match="broken"):
            write("broken", True)
        assert content(target) in (whole("first"), whole("second")), kills
        assert [path.name for path in target.parent.iterdir()] == ["model"], kills
        with pytest.raises(ConfigError, match="is there already"):
            write("third", False)
        write("first", True)
        assert content(target) == whole("first")
    assert kills >= 3
    assert content(target) == whole("second")
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_copy_of_ones_own_beside_the_model_stays(write: Write, tmp_path: Path) -> None:
    own = tmp_path / "out/model.old"
    own.mkdir(parents=True)
    (own / "a").write_text("mine")
    for text in ("first", "second"):
        write(text, text == "second")
        assert content(tmp_path / "out/model") == whole(text)
        assert content(own) == {"a": "mine"}
