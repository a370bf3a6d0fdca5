"""Importing and exporting write beside what they read, never over it."""

from pathlib import Path

import pytest

from neva_prep.errors import ConfigError
from neva_prep.trainer import hf_import, import_ckpt
from neva_prep.trainer.saved import export_run


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to import, in the folder where the command runs."""
    monkeypatch.setenv("NEVA_PREP_CACHE", str(tmp_path / "cache"))

    def write(model: object, folder: Path, part: Path, precision: object) -> None:
        part.mkdir()

    monkeypatch.setattr(hf_import, "_import_neva", write)
    folder = tmp_path / "here" / "llava"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(folder.parent)
    return folder


@pytest.mark.parametrize("written", ["{}", "{}/", "../here/llava", "llava", "./llava"])
def test_a_folder_is_imported_under_its_name_in_the_cache(
    source: Path, tmp_path: Path, written: str
) -> None:
    given = written.format(source)
    assert import_ckpt(None, given) == tmp_path / "cache/models/llava"
    assert import_ckpt(None, given, overwrite=True) == tmp_path / "cache/models/llava"
    assert (source / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("target", ["llava", ".", "llava/ckpt", "link", "../here"])
def test_no_import_takes_the_place_of_its_source(source: Path, target: str) -> None:
    Path("link").symlink_to(source)
    with pytest.raises(ConfigError, match="which is read from; give a folder beside it"):
        import_ckpt(None, "llava", target, overwrite=True)
    assert (source / "model.safetensors").read_bytes() == b"weights"


def test_what_is_read_may_have_the_name_of_what_is_half_written(source: Path) -> None:
    part = source.rename("new.part")
    with pytest.raises(ConfigError, match="which is read from"):
        import_ckpt(None, part, "new")
    assert (part / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("target", ["", "checkpoints", "checkpoints/step-00000001/hf"])
@pytest.mark.parametrize("adapter", [False, True])
def test_no_export_takes_the_place_of_its_run(tmp_path: Path, target: str, adapter: bool) -> None:
    checkpoint = tmp_path / "run/checkpoints/step-00000001"
    (checkpoint / "context").mkdir(parents=True)
    if adapter:
        (checkpoint / "context/lora.json").write_text("{}")
    with pytest.raises(ConfigError, match="which is read from; give a folder beside it"):
        export_run(checkpoint, tmp_path / "run" / target, adapter=adapter, overwrite=True)
    assert checkpoint.is_dir()
